# The name that users of DRBD know.
%role{}
