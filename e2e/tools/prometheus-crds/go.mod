// The module whose CRDs are loaded into the test cluster. Nothing of it is compiled or committed.
module github.com/imageset-mirror/imageset-mirror/e2e/tools/prometheus-crds

go 1.24.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
