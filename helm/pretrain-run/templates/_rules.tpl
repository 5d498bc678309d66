{{/* Rules that compare values and that a schema therefore cannot say; k8s/values.py has them in the same words. */}}
{{- define "pretrain-run.rules" -}}
{{- $elastic := .Values.elastic -}}
{{- if gt (int $elastic.min) (int $elastic.max) -}}
  {{- fail (printf "elastic: min %d is above max %d; swap them or raise max" (int $elastic.min) (int $elastic.max)) -}}
{{- end -}}
{{- if and $elastic.enabled (or (lt (int .Values.nodes) (int $elastic.min)) (gt (int .Values.nodes) (int $elastic.max))) -}}
  {{- fail (printf "nodes %d is outside of elastic.min %d to max %d" (int .Values.nodes) (int $elastic.min) (int $elastic.max)) -}}
{{- end -}}
{{- $most := ternary (int $elastic.max) (int .Values.nodes) $elastic.enabled -}}
{{- if and (eq .Values.storage.runs.kind "emptyDir") (gt $most 1) -}}
  {{- fail (printf "storage.runs.kind emptyDir with %d nodes: pods would not see each other's files; choose claim or existing" $most) -}}
{{- end -}}
{{- if and $elastic.enabled .Values.scheduling.kueue.topologyLevel -}}
  {{- fail "scheduling.kueue.topologyLevel with elastic.enabled: Kueue places a fixed number of pods only" -}}
{{- end -}}
{{- if and (not (has .Values.stage (list "run" "pretrain"))) (gt (mul $most (int .Values.processesPerNode)) 1) -}}
  {{- fail (printf "stage %s is one process's work; set nodes: 1 and processesPerNode: 1" .Values.stage) -}}
{{- end -}}
{{- range $which, $volume := dict "runs" .Values.storage.runs "data" .Values.storage.data -}}
  {{- if ne (eq $volume.kind "existing") (not (empty $volume.claimName)) -}}
    {{- fail (printf "storage.%s: kind %s with claimName %s: kind existing and claimName go together" $which $volume.kind ($volume.claimName | default "None")) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
