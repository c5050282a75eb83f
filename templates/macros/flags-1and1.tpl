# Switches of sync, fetch and replay.
-%if{%todo-sync{}}{S}{-}%if{%todo-fetch{}}{F}{-}%if{%todo-replay{}}{R}{-}-
