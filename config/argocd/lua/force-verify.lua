-- Asks for a sync that looks at every blob again.
local os = require("os")
local now = os.date("!%Y-%m-%dT%XZ")
local annotations = obj.metadata.annotations or {}
annotations["mirror.openshift.io/requested-at"] = now
annotations["mirror.openshift.io/force-at"] = now
obj.metadata.annotations = annotations
return obj
