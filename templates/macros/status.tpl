# Name, [replicas/hosts], disk state, replication state, flags, role, primary, silence of the primary.
\ \ %{res} [%count-resource-members{}/%count-cluster-members{}] %diskstate{} %replstate{} %flags{} %role{} %primarynode{} %commstate{}
