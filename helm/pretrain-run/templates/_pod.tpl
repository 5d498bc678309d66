{{/*
The one pod of all backends. (root role): role trainer, or for mpijob worker and launcher. What differs between backends is
named here and nowhere else: `restartPolicy` and `subdomain` of a Job, the backend's own variables, and MPI's sshd.
*/}}
{{- define "pretrain-run.podTemplate" -}}
{{- $ := .root -}}
{{- $values := $.Values -}}
metadata:
  labels:
    {{- include "pretrain-run.labels" $ | nindent 4 }}
    pretrain-run/role: {{ .role }}
    sidecar.istio.io/inject: "false"
    {{- with $values.extra.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    sidecar.istio.io/inject: "false"
    cluster-autoscaler.kubernetes.io/safe-to-evict: {{ $values.disruption.safeToEvict | quote }}
    {{- if not $values.disruption.safeToEvict }}
    karpenter.sh/do-not-disrupt: "true"
    {{- end }}
    {{- with $values.scheduling.kueue.topologyLevel }}
    kueue.x-k8s.io/podset-{{ ternary "required" "preferred" $values.scheduling.kueue.topologyRequired }}-topology: {{ . | quote }}
    {{- end }}
    {{- with $values.extra.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- if eq $values.backend "job" }}
  restartPolicy: Never
  subdomain: {{ include "pretrain-run.fullname" $ }}
  {{- end }}
  serviceAccountName: {{ include "pretrain-run.serviceAccountName" $ | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $values.gracePeriodSeconds }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ int $values.security.runAsUser }}
    runAsGroup: {{ int $values.security.runAsGroup }}
    fsGroup: {{ int $values.security.fsGroup }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- include "pretrain-run.placement" . | nindent 2 }}
  {{- with $values.extra.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: pytorch
      image: {{ include "pretrain-run.image" $ | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- if eq .role "worker" }}
      command: ["/usr/sbin/sshd", "-De", "-f", "/etc/pretrain-run/sshd_config"]
      {{- else }}
      command: ["python", "-m", "trainer.elastic"]
      args: {{ include "pretrain-run.arguments" $ }}
      {{- end }}
      env:
        {{- include "pretrain-run.environment" $ | nindent 8 }}
      {{- with $values.extra.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if eq .role "launcher" }}
      resources:
        requests: {cpu: {{ $values.mpi.launcherCpu | quote }}, memory: {{ $values.mpi.launcherMemory | quote }}}
        limits: {memory: {{ $values.mpi.launcherMemory | quote }}}
      {{- else }}
      resources:
        {{- include "pretrain-run.resources" $ | nindent 8 }}
      {{- end }}
      {{- include "pretrain-run.ports" . | nindent 6 }}
      terminationMessagePath: /dev/termination-log
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext:
        {{- include "pretrain-run.containerSecurity" $ | nindent 8 }}
      volumeMounts:
        {{- include "pretrain-run.mounts" $ | nindent 8 }}
    {{- with $values.extra.containers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "pretrain-run.volumes" . | nindent 4 }}
{{- end -}}

{{- define "pretrain-run.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The trainer's command line: its config, and where the volumes are. */}}
{{- define "pretrain-run.arguments" -}}
{{- $arguments := list .Values.stage "--config" "/etc/pretrain-run/run.json" "--set" (printf "name=%s" (include "pretrain-run.fullname" .)) "--set" (printf "run_dir=/runs/%s" (include "pretrain-run.fullname" .)) -}}
{{- if ne .Values.storage.data.kind "none" }}{{ $arguments = concat $arguments (list "--set" "data_dir=/data") }}{{ end -}}
{{- if .Values.wandb.enabled }}{{ $arguments = append $arguments "--use_wandb" }}{{ end -}}
{{- if .Values.monitor.enabled }}{{ $arguments = concat $arguments (list "--set" (printf "tracking.prometheus_port=%d" (int .Values.monitor.port))) }}{{ end -}}
{{ toRawJson $arguments }}
{{- end -}}

{{- define "pretrain-run.environment" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: PYTHONUNBUFFERED
  value: "1"
- name: PRETRAIN_RUN_BACKEND
  value: {{ .Values.backend }}
- name: PRETRAIN_RUN_NAME
  value: {{ include "pretrain-run.fullname" . }}
- name: PRETRAIN_RUN_NODES
  value: {{ include "pretrain-run.nodeRange" . | quote }}
- name: PRETRAIN_RUN_PROCESSES
  value: {{ int .Values.processesPerNode | quote }}
- name: PRETRAIN_RUN_RENDEZVOUS
  value: {{ include "pretrain-run.rendezvous" . }}
{{- if eq .Values.backend "mpijob" }}
{{- /* the port and key of sshd; the first is what Open MPI 4 reads, the second Open MPI 5 */}}
{{- range $name := list "OMPI_MCA_plm_rsh_agent" "PRTE_MCA_plm_ssh_agent" }}
- name: {{ $name }}
  value: ssh -F /etc/pretrain-run/ssh_config
{{- end }}
{{- end }}
- name: PRETRAIN_RUN_STATE
  value: /runs/{{ include "pretrain-run.fullname" . }}
- name: PRETRAIN_RUN_MAX_RESTARTS
  value: {{ int .Values.maxRestarts | quote }}
- name: PRETRAIN_RUN_ATTEMPT
  value: {{ int .Values.attempt | quote }}
- name: PRETRAIN_RUN_GRACE_S
  value: {{ sub (int .Values.gracePeriodSeconds) 5 | quote }}
- name: PRETRAIN_RUN_JOIN_TIMEOUT_S
  value: {{ int .Values.rendezvous.joinTimeoutSeconds | quote }}
- name: PRETRAIN_RUN_LAST_CALL_S
  value: {{ int .Values.rendezvous.lastCallSeconds | quote }}
- name: PRETRAIN_RUN_DNS_TIMEOUT_S
  value: {{ int .Values.rendezvous.dnsTimeoutSeconds | quote }}
{{- with .Values.deadlineSeconds }}
- name: PRETRAIN_RUN_DEADLINE_S
  value: {{ int . | quote }}
{{- end }}
- name: PRETRAIN_RUN_WATCHDOG_S
  value: {{ if .Values.watchdogSeconds }}{{ int .Values.watchdogSeconds | quote }}{{ else }}""{{ end }}
{{- /* the root is read-only and nobody has a home: whatever caches goes to the scratch volume */}}
{{- range $name, $folder := dict "HOME" "home" "XDG_CACHE_HOME" "cache" "TRITON_CACHE_DIR" "cache/triton" "TORCHINDUCTOR_CACHE_DIR" "cache/inductor" "WANDB_DIR" "wandb" }}
- name: {{ $name }}
  value: /tmp/{{ $folder }}
{{- end }}
{{- with .Values.network.interface }}
- name: NCCL_SOCKET_IFNAME
  value: {{ . | quote }}
- name: GLOO_SOCKET_IFNAME
  value: {{ . | quote }}
{{- end }}
{{- with .Values.network.ncclDebug }}
- name: NCCL_DEBUG
  value: {{ . | quote }}
{{- end }}
{{- if .Values.wandb.enabled }}
{{- if .Values.wandb.existingSecret }}
- name: WANDB_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .Values.wandb.existingSecret | quote }}, key: {{ .Values.wandb.secretKey | quote }}}}
{{- else }}
- name: WANDB_MODE
  value: offline
{{- end }}
{{- end }}
{{- with .Values.extra.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "pretrain-run.resources" -}}
{{- $resources := .Values.resources -}}
{{- if int .Values.gpusPerNode -}}
  {{- $gpu := dict .Values.gpuResource (int .Values.gpusPerNode) -}}
  {{- $limits := merge $gpu (deepCopy ($resources.limits | default dict)) -}}
  {{- $resources = dict "requests" ($resources.requests | default dict) "limits" $limits -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{- define "pretrain-run.ports" -}}
{{- $values := .root.Values -}}
ports:
  {{- if eq .role "worker" }}
  - {name: ssh, containerPort: {{ int $values.mpi.sshPort }}, protocol: TCP}
  {{- else if eq $values.backend "pytorchjob" }}
  - {name: pytorchjob-port, containerPort: {{ int $values.rendezvous.port }}, protocol: TCP}
  {{- else }}
  - {name: rendezvous, containerPort: {{ int $values.rendezvous.port }}, protocol: TCP}
  {{- end }}
  {{- if and $values.monitor.enabled (ne .role "launcher") }}
  - {name: metrics, containerPort: {{ int $values.monitor.port }}, protocol: TCP}
  {{- end }}
{{- if eq .role "worker" }}
# sshd ends at once and takes the processes with it: let those that the launcher has told to save do so first
lifecycle:
  preStop:
    exec:
      command: [sh, -c, "while grep -qs '[t]rainer' /proc/[0-9]*/cmdline; do sleep 0.5; done"]
readinessProbe:
  tcpSocket: {port: ssh}
  periodSeconds: 2
{{- end }}
{{- end -}}

{{- define "pretrain-run.placement" -}}
{{- $role := .role -}}
{{- with .root -}}
{{- $scheduling := .Values.scheduling -}}
{{- with $scheduling.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $scheduling.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
{{- with $scheduling.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $scheduling.tolerations -}}
{{- if int .Values.gpusPerNode }}
  {{- $tolerations = append $tolerations (dict "key" .Values.gpuResource "operator" "Exists" "effect" "NoSchedule") -}}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $affinity := deepCopy $scheduling.affinity -}}
{{- if and $scheduling.onePodPerNode (ne $role "launcher") -}}
  {{- $labels := set (include "pretrain-run.selectorLabels" . | fromYaml) "pretrain-run/role" $role -}}
  {{- $selector := dict "matchLabels" $labels -}}
  {{- $term := dict "labelSelector" $selector "topologyKey" "kubernetes.io/hostname" -}}
  {{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- end -}}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $scheduling.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "pretrain-run.mounts" -}}
- {name: config, mountPath: /etc/pretrain-run, readOnly: true}
- {name: runs, mountPath: /runs{{ with .Values.storage.runs.subPath }}, subPath: {{ . | quote }}{{ end }}}
{{- if ne .Values.storage.data.kind "none" }}
- {name: data, mountPath: /data{{ with .Values.storage.data.subPath }}, subPath: {{ . | quote }}{{ end }}, readOnly: {{ .Values.storage.dataReadOnly }}}
{{- end }}
{{- range .Values.storage.inputs }}
- {name: {{ .name | quote }}, mountPath: {{ .mountPath | quote }}, readOnly: true}
{{- end }}
- {name: shm, mountPath: /dev/shm}
- {name: scratch, mountPath: /tmp}
{{- with .Values.extra.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "pretrain-run.volumes" -}}
{{- $role := .role -}}
{{- with .root -}}
- name: config
  configMap: {name: {{ include "pretrain-run.configName" . }}}
{{- range $name, $volume := dict "runs" .Values.storage.runs "data" .Values.storage.data }}
{{- if ne $volume.kind "none" }}
- name: {{ $name }}
  {{- if eq $volume.kind "emptyDir" }}
  emptyDir: {sizeLimit: {{ $volume.size | quote }}}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ $volume.claimName | default (printf "%s-%s" (include "pretrain-run.fullname" $.root) $name) | quote }}}
  {{- end }}
{{- end }}
{{- end }}
{{- range .Values.storage.inputs }}
- {{ omit . "mountPath" | toYaml | nindent 2 | trim }}
{{- end }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ eq $role "launcher" | ternary "64Mi" .Values.shm.size | quote }}}
- name: scratch
  emptyDir: {sizeLimit: {{ .Values.storage.scratchSize | quote }}}
{{- with .Values.extra.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}
