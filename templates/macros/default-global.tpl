# What concerns the whole host.
%comminfo{}
