-- Health of OAuthClient, TokenProfile and DcrPolicy for Argo CD.
-- kstatus compliant: the operator keeps status.observedGeneration and the conditions Ready, Reconciling and Stalled.
local hs = { status = "Progressing", message = "Waiting for the operator to look at it" }

local annotations = obj.metadata.annotations
if obj.spec ~= nil and obj.spec.suspend == true then
  hs.status = "Suspended"
  hs.message = "Suspended (spec.suspend)"
  return hs
end
if annotations ~= nil and annotations["dcr-operator.dev/paused"] == "true" then
  hs.status = "Suspended"
  hs.message = "Suspended (annotation dcr-operator.dev/paused)"
  return hs
end

if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end

local stalled, reconciling, ready = conditions["Stalled"], conditions["Reconciling"], conditions["Ready"]
if stalled ~= nil and stalled.status == "True" then
  hs.status = "Degraded"
  hs.message = stalled.reason .. ": " .. stalled.message
elseif reconciling ~= nil and reconciling.status == "True" then
  hs.message = reconciling.message
elseif ready ~= nil then
  hs.message = ready.message
  if ready.status == "True" then
    hs.status = "Healthy"
  elseif ready.status == "False" then
    hs.status = "Degraded"
    hs.message = ready.reason .. ": " .. ready.message
  end
end

return hs
