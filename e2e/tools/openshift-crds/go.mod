// The module whose manifests are loaded into the test cluster. Nothing of it is compiled or committed.
module github.com/imageset-mirror/imageset-mirror/e2e/tools/openshift-crds

go 1.24.0

require github.com/openshift/api v0.0.0-20251015095338-264e80a2b6e7
