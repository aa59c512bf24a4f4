// Two small programs of the node: what its pods are kept open with, and the way into and out of its network.
module github.com/imageset-mirror/imageset-mirror/e2e/tools/node

go 1.26.0
