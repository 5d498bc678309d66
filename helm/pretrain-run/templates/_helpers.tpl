{{/* Names and labels. Nothing here looks at the cluster, the clock, the release or chance: the same values give the same bytes. */}}

{{/* NAME-HASH: the name of every object of the run. */}}
{{- define "pretrain-run.fullname" -}}
{{ .Values.name }}-{{ include "pretrain-run.hash" . | trunc 10 }}
{{- end -}}

{{/* What pods of the run carry, and what selects them. */}}
{{- define "pretrain-run.selectorLabels" -}}
pretrain-run/run: {{ include "pretrain-run.fullname" . }}
{{- end -}}

{{- define "pretrain-run.labels" -}}
{{ include "pretrain-run.selectorLabels" . }}
pretrain-run/name: {{ .Values.name | quote }}
pretrain-run/hash: {{ include "pretrain-run.hash" . | trunc 10 | quote }}
pretrain-run/backend: {{ .Values.backend }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ include "pretrain-run.fullname" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* Labels of the run's own object: what a queue reads stands here. */}}
{{- define "pretrain-run.runLabels" -}}
{{ include "pretrain-run.labels" . }}
{{- with .Values.scheduling.kueue.queueName }}
kueue.x-k8s.io/queue-name: {{ . | quote }}
{{- end }}
{{- with .Values.scheduling.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Annotations of the run's own object: the identity that its hash was made of, and what keeps it from being removed. */}}
{{- define "pretrain-run.runAnnotations" -}}
pretrain-run/hash: {{ include "pretrain-run.hash" . | quote }}
pretrain-run/identity: {{ include "pretrain-run.identity" . | replace "'" "''" | squote }}
pretrain-run/config: {{ include "pretrain-run.configName" . }}
{{- if and .Values.elastic.enabled (eq .Values.backend "job") .Values.scheduling.kueue.queueName }}
kueue.x-k8s.io/elastic-job: "true"
{{- end }}
{{- if .Values.gitops }}
argocd.argoproj.io/sync-options: Delete=confirm,ServerSideApply=true
kustomize.toolkit.fluxcd.io/ssa: IfNotPresent
{{- end }}
{{- if or .Values.gitops .Values.keepOnUninstall }}
helm.sh/resource-policy: keep
{{- end }}
{{- end -}}

{{/* For what a run needs until its end: a release that goes on to another run leaves it there. */}}
{{- define "pretrain-run.kept" -}}
{{- if or .Values.gitops .Values.keepOnUninstall }}
annotations:
  helm.sh/resource-policy: keep
{{- end }}
{{- end -}}

{{- define "pretrain-run.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end -}}

{{/* NODES, or MIN:MAX. */}}
{{- define "pretrain-run.nodeRange" -}}
{{- if .Values.elastic.enabled }}{{ int .Values.elastic.min }}:{{ int .Values.elastic.max }}{{ else }}{{ int .Values.nodes }}:{{ int .Values.nodes }}{{ end -}}
{{- end -}}

{{/* Fewest pods without which the run stands still. */}}
{{- define "pretrain-run.fewestNodes" -}}
{{- if .Values.elastic.enabled }}{{ int .Values.elastic.min }}{{ else }}{{ int .Values.nodes }}{{ end -}}
{{- end -}}

{{/* What pods are found by. An operator's service has its own name; a Job's is ours. */}}
{{- define "pretrain-run.rendezvous" -}}
{{- $name := include "pretrain-run.fullname" . -}}
{{- if eq .Values.backend "job" }}{{ $name }}-0.{{ $name }}:{{ int .Values.rendezvous.port }}
{{- else }}{{ $name }}-worker-0:{{ int .Values.rendezvous.port }}{{ end -}}
{{- end -}}

{{- define "pretrain-run.serviceAccountName" -}}
{{ .Values.security.serviceAccountName | default (include "pretrain-run.fullname" .) }}
{{- end -}}

{{/* The ConfigMap is immutable and named by its content, which holds more than the hash's part: what is logged, say. */}}
{{- define "pretrain-run.configName" -}}
{{ include "pretrain-run.fullname" . }}-{{ include "pretrain-run.configFile" . | sha256sum | trunc 8 }}
{{- end -}}

{{/* The trainer's config as given, in JSON, whose numbers every reader takes alike. */}}
{{- define "pretrain-run.configFile" -}}
{{ dict "trainer" .Values.trainer | toRawJson }}
{{- end -}}
