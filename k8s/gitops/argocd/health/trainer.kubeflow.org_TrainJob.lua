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
if messages.Complete ~= nil then
  return {status = "Healthy", message = messages.Complete}
end
if messages.Suspended ~= nil then
  return {status = "Suspended", message = messages.Suspended}
end

local parts = {}
if obj.status ~= nil and obj.status.jobsStatus ~= nil then
  for _, job in ipairs(obj.status.jobsStatus) do
    local ready, active = tostring(job.ready or 0), tostring(job.active or 0)
    table.insert(parts, job.name .. ": " .. ready .. " ready, " .. active .. " active")
  end
end
if #parts == 0 then
  return {status = "Progressing", message = "Kubeflow Trainer has made no jobs yet"}
end
return {status = "Progressing", message = table.concat(parts, "; ")}
