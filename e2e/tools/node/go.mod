// Small programs of the node: what its pods are kept open with, the way into and out of its network, and its DNS.
module github.com/imageset-mirror/imageset-mirror/e2e/tools/node

go 1.26.0

require golang.org/x/net v0.60.0
