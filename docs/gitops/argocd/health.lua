-- Health of PrefillPool, DecodePool, PrefillRoute and ModelKVProfile for Argo CD.
-- Its words: Healthy, Progressing, Degraded, Suspended. It reads what kstatus reads, so Flux and Argo CD agree.
local health = {}

if obj.kind == "ModelKVProfile" then
  health.status = "Healthy"
  health.message = "facts for others to use"
  return health
end

local conditions = {}
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    conditions[condition.type] = condition
  end
end

local function told(condition)
  return condition.reason .. ": " .. condition.message
end

if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  health.status = "Progressing"
  health.message = "the operator has not seen this generation yet"
  return health
end

local stalled, reconciling, ready = conditions.Stalled, conditions.Reconciling, conditions.Ready
if stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = told(stalled)
elseif reconciling ~= nil and reconciling.status == "True" then
  health.status = "Progressing"
  health.message = told(reconciling)
elseif ready ~= nil and ready.status == "True" then
  health.status = "Healthy"
  health.message = told(ready)
elseif ready ~= nil then
  health.status = "Progressing"
  health.message = told(ready)
else
  health.status = "Progressing"
  health.message = "the operator has not said whether it is ready"
end
return health
