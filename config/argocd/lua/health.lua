-- What Argo CD shows as the health of an ImageSetMirror. Healthy means Ready; a failure that is tried again is Progressing,
-- because Degraded would end a running sync of the Application for good; Stalled, which nobody tries again, is Degraded.
local function because(condition)
  local reason, message = condition.reason or "", condition.message or ""
  if reason == "" or message == "" then
    return reason .. message
  end
  return reason .. ": " .. message
end

if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "being deleted" }
end
if obj.spec ~= nil and obj.spec.suspend == true then
  return { status = "Suspended", message = "suspended by spec.suspend" }
end

local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this version of the object yet" }
end
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function is(kind, value)
  return conditions[kind] ~= nil and conditions[kind].status == value
end

if is("Stalled", "True") then
  return { status = "Degraded", message = because(conditions.Stalled) }
end
if is("Ready", "True") then
  return { status = "Healthy", message = because(conditions.Ready) }
end
if is("Reconciling", "True") then
  return { status = "Progressing", message = because(conditions.Reconciling) }
end
if is("Ready", "False") then
  return { status = "Degraded", message = because(conditions.Ready) }
end
return { status = "Progressing", message = "the operator has not said anything about this object yet" }
