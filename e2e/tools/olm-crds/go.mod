// The module whose manifests are loaded into the test cluster. Nothing of it is compiled or committed.
module github.com/imageset-mirror/imageset-mirror/e2e/tools/olm-crds

go 1.24.0

require github.com/operator-framework/api v0.35.0
