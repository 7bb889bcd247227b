// Package deploy has the manifests with which a cluster gets the operator and the agents of its nodes, for kustomize:
// kustomization.yaml. crd and rbac are made from Go code, and chart, for Helm, from all of it by makechart. What
// a node needs beside its image is in node. Of Go there are tests here.
package deploy
