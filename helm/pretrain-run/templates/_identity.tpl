{{/*
A run's identity: the values that determine its result, as JSON with sorted keys. files/trainer.json, generated from the trainer's
models, names the identified fields and their defaults, so a default that is written out, the order of keys, comments, and
everything about where a run runs leave the hash as it is. So does a field that a later release added, while it is at its default. trainer.config's Config.identity() says the same of the trainer's part.
*/}}

{{- define "pretrain-run.hash" -}}
{{ include "pretrain-run.identity" . | sha256sum }}
{{- end -}}

{{- define "pretrain-run.identity" -}}
{{- $facts := .Files.Get "files/trainer.json" | fromJson -}}
{{- $given := .Values.trainer -}}
{{- with $given.preset -}}
  {{- $given = include "pretrain-run.merged" (list (get $facts.presets .) $given) | fromJson -}}
{{- end -}}
{{- $fingerprints := dict -}}
{{- range $what, $sum := .Values.fingerprints -}}
  {{- if $sum }}{{ $_ := set $fingerprints $what (trimPrefix "sha256:" $sum) }}{{ end -}}
{{- end -}}
{{- $trainer := include "pretrain-run.identified" (list $facts.identity $given) | fromJson -}}
{{- dict "schema" 1 "image" (include "pretrain-run.image" .) "stage" .Values.stage "trainer" $trainer "fingerprints" $fingerprints | toRawJson -}}
{{- end -}}

{{/* (base top): mappings merge key by key, anything else of top replaces. Not Helm's mergeOverwrite, for which false and 0 are absent. */}}
{{- define "pretrain-run.merged" -}}
{{- $result := dict -}}
{{- range $key, $value := index . 0 }}{{ $_ := set $result $key $value }}{{ end -}}
{{- range $key, $value := index . 1 -}}
  {{- if and (kindIs "map" $value) (kindIs "map" (get $result $key)) -}}
    {{- $_ := set $result $key (include "pretrain-run.merged" (list (get $result $key) $value) | fromJson) -}}
  {{- else -}}
    {{- $_ := set $result $key $value -}}
  {{- end -}}
{{- end -}}
{{- toRawJson $result -}}
{{- end -}}

{{/* (fields given): the identified fields of a section, each with its given value or its default. */}}
{{- define "pretrain-run.identified" -}}
{{- $given := index . 1 | default dict -}}
{{- $result := dict -}}
{{- range $name, $node := index . 0 -}}
  {{- if hasKey $node "fields" -}}
    {{- $_ := set $result $name (include "pretrain-run.identified" (list $node.fields (get $given $name)) | fromJson) -}}
  {{- else if hasKey $node "items" -}}
    {{- $items := list -}}
    {{- range (get $given $name | default list) -}}
      {{- $items = append $items (include "pretrain-run.identified" (list $node.items .) | fromJson) -}}
    {{- end -}}
    {{- $_ := set $result $name $items -}}
  {{- else if hasKey $node "optional" -}}
    {{- $part := get $given $name | default nil -}}
    {{- if kindIs "map" $part -}}
      {{- $_ := set $result $name (include "pretrain-run.identified" (list $node.optional $part) | fromJson) -}}
    {{- else -}}
      {{- $_ := set $result $name nil -}}
    {{- end -}}
  {{- else if get $node "addedLater" -}}
    {{- if and (hasKey $given $name) (ne (get $given $name | toRawJson) (toRawJson $node.default)) -}}
      {{- $_ := set $result $name (get $given $name) -}}
    {{- end -}}
  {{- else if hasKey $given $name -}}
    {{- $_ := set $result $name (get $given $name) -}}
  {{- else -}}
    {{- $_ := set $result $name $node.default -}}
  {{- end -}}
{{- end -}}
{{- toRawJson $result -}}
{{- end -}}
