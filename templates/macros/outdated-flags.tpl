# What is behind: F the logs here, R the replay.
%unless{%fetch-reached{}}{F}%unless{%replay-reached{}}{R}
