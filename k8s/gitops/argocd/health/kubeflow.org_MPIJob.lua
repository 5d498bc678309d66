-- A run is Progressing for as long as it trains. Argo CD gives no string library here: only base, table and a part of os.
local messages = {}
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    if condition.status == "True" then
      messages[condition.type] = condition.message or condition.reason or condition.type
    end
  end
end

if messages.Failed ~= nil then
  return {status = "Degraded", message = messages.Failed}
end
if messages.Succeeded ~= nil then
  return {status = "Healthy", message = messages.Succeeded}
end
if messages.Suspended ~= nil then
  return {status = "Suspended", message = messages.Suspended}
end

local active = ""
if obj.status ~= nil and obj.status.replicaStatuses ~= nil and obj.status.replicaStatuses.Worker ~= nil then
  active = " (" .. tostring(obj.status.replicaStatuses.Worker.active or 0) .. " workers active)"
end
local message = messages.Restarting or messages.Running or messages.Created or "mpi-operator has not seen it yet"
return {status = "Progressing", message = message .. active}
