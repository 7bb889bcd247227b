// Package cluster tests a fleet of real machines: a control plane of Kubernetes on loopback, and virtual machines with
// Debian's containerd and a kubelet. Their disks are exported, and they join by a token, as examples/kubernetes has
// it. Operator and agents are pods there, from the manifests of deploy. `make test-nodes` builds what it takes.
//
//	host   etcd, kube-apiserver, kube-controller-manager, kube-scheduler, registry: on 127.0.0.1
//	node   the host's loopback is 10.0.2.2; pods have Debian's bridge plugin, and reach the API server's Service by a
//	       rule of iptables, which stands in for kube-proxy
package cluster
