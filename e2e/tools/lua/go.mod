// Scripts for Argo CD, run by the interpreter and with the libraries that Argo CD gives them.
module github.com/imageset-mirror/imageset-mirror/e2e/tools/lua

go 1.26.0

require github.com/yuin/gopher-lua v1.1.2
