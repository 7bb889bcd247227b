// Package fleet tests what is in fleet and deploy against a real kube-apiserver and etcd: the manifests as they are
// shipped, the rights that they give, and rollouts that the operator's program carries out with the token of its
// service account. Nodes are played: each has a kubelet that runs helper pods, a kairos-apply with releases that are
// good or bad, and the agent itself, with the token of its pod. `make test-fleet` builds what it takes.
package fleet
