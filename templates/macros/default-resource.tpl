# Name, size, [replicas/hosts].
%{res} %human-number{}{}{}{%resource-size{}} [%count-resource-members{}/%count-cluster-members{}]
