# After all resources: nothing.
