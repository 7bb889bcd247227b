// Package deploy has the manifests with which a cluster gets the operator and the agents of its nodes, for kustomize:
// kustomization.yaml. crd and rbac are made from Go code. What a node needs beside its image is in node. There is no
// code here but tests.
package deploy
