# The actual primary.
%if{%actual-primary{}}{%actual-primary{}}{-}
