-- Which actions are offered for an ImageSetMirror, and which of them can be used now.
local suspended = obj.spec ~= nil and obj.spec.suspend == true
return {
  ["sync-now"] = { displayName = "Sync now", iconClass = "fa fa-fw fa-sync", disabled = suspended },
  ["force-verify"] = { displayName = "Verify everything", iconClass = "fa fa-fw fa-check-double", disabled = suspended },
  ["suspend"] = { displayName = "Suspend", iconClass = "fa fa-fw fa-pause", disabled = suspended },
  ["resume"] = { displayName = "Resume", iconClass = "fa fa-fw fa-play", disabled = not suspended },
}
