-- Asks for a sync.
local os = require("os")
local annotations = obj.metadata.annotations or {}
annotations["mirror.openshift.io/requested-at"] = os.date("!%Y-%m-%dT%XZ")
obj.metadata.annotations = annotations
return obj
