# Six characters: device, consistency, attach, sync, fetch, replay.
%if{%disk-present{}}{%if{%device-present{}}{D}{d}}{-}\
%elsif{%is-consistent{}}{C}{%disk-present{}}{c}{-}\
%if{%todo-attach{}}{%if{%is-attach{}}{A}{a}}{%if{%is-attach{}}{a}{-}}\
%elsif{%sync-reached{}}{S}{%todo-sync{}}{s}{-}\
%elsif{%fetch-reached{}}{F}{%todo-fetch{}}{f}{-}\
%elsif{%replay-reached{}}{R}{%todo-replay{}}{r}{-}
