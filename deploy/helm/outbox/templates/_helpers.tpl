{{/* Names and labels; the variables and files of a pod. A role is passed as `role`, the root as `root`. */}}

{{- define "outbox.fullname" -}}
{{- if contains "outbox" .Release.Name }}{{ .Release.Name | trunc 20 | trimSuffix "-" }}{{ else }}{{ printf "%s-outbox" (.Release.Name | trunc 13 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "outbox.role.fullname" -}}
{{ include "outbox.fullname" .root }}-{{ .role.name }}
{{- end }}

{{- define "outbox.labels" -}}
app.kubernetes.io/name: outbox
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "outbox.role.selector" -}}
app.kubernetes.io/name: outbox
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role.name }}
{{- end }}

{{- define "outbox.role.labels" -}}
{{ include "outbox.labels" .root }}
app.kubernetes.io/component: {{ .role.name }}
{{- end }}

{{- define "outbox.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Where the pods of a role run; without a role, those of the chart. */}}
{{- define "outbox.scheduling" -}}
{{- $role := .role | default dict }}
{{- $values := .root.Values }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" }}
{{- with hasKey $role $key | ternary (get $role $key) (get $values $key) }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "outbox.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
# The secrets of a pod are readable for this group.
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "outbox.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The variables of the database, which are files. */}}
{{- define "outbox.databaseEnv" -}}
- name: OUTBOX_DB_FILE
  value: /etc/outbox/database/{{ .Values.database.urlKey }}
{{- with .Values.database.listenUrlKey }}
- name: OUTBOX_DB_LISTEN_FILE
  value: /etc/outbox/database/{{ . }}
{{- end }}
{{- with .Values.database.passwordKey }}
- name: OUTBOX_DB_PASSWORD_FILE
  value: /etc/outbox/database/{{ . }}
{{- end }}
{{- end }}

{{- define "outbox.databaseMount" -}}
- name: database
  mountPath: /etc/outbox/database
  readOnly: true
{{- end }}

{{- define "outbox.databaseVolume" -}}
- name: database
  secret:
    secretName: {{ .Values.database.secret }}
    defaultMode: 0440
{{- end }}

{{/* The rules that every pod needs to reach the store. */}}
{{- define "outbox.storeEgress" -}}
# Names.
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
# The database.
- ports:
    - port: {{ .Values.networkPolicy.databasePort | int }}
  {{- with .Values.networkPolicy.database }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "outbox.filesMounts" -}}
{{- range .Values.files }}
- name: file-{{ .name }}
  mountPath: /etc/outbox/files/{{ .name }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "outbox.filesVolumes" -}}
{{- range .Values.files }}
- name: file-{{ .name }}
  {{- if .secret }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ .configMap }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A role's settings or variables over those of the chart, as entries of `env`. Numbers have no exponent. */}}
{{- define "outbox.merged" -}}
{{- $root := .root }}
{{- $merged := merge (dict) (get .role .key | default dict) (get .root.Values .key) }}
{{- range $name, $value := $merged }}
- name: {{ $name }}
  value: {{ kindIs "float64" $value | ternary ($value | int64 | toString) (toString $value) | quote }}
{{- end }}
{{- end }}

{{/* Where a role's components come from: a folder, or images in a registry. */}}
{{- define "outbox.plugins" -}}
{{- with (.plugins | default dict).registry -}}
oci://{{ join ",oci://" .images }}
{{- else -}}
/plugins
{{- end }}
{{- end }}

{{/* The secrets of a role's manifests, by their variables: those of the role in the place of those of the chart. */}}
{{- define "outbox.secretFiles" -}}
{{- $secrets := dict }}
{{- range concat .root.Values.secretFiles (.role.secretFiles | default list) }}
{{- $_ := set $secrets .variable . }}
{{- end }}
{{- toYaml $secrets }}
{{- end }}

{{/* What no schema can say of the values as a whole. */}}
{{- define "outbox.check" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository: name the image in a registry of yours; nobody publishes it (docs/deploying.md)" }}
{{- end }}
{{- $names := dict }}
{{- range .Values.roles }}
{{- if hasKey $names .name }}
{{- fail (printf "roles: the name %q is given twice: every role needs a name of its own" .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- with .plugins }}
{{- if gt (len .) 1 }}
{{- fail "roles: the plugins of a role come from an image, from a configMap or from a registry, not from several of them" }}
{{- end }}
{{- end }}
{{- end }}
{{- range concat (list .Values) .Values.roles }}
{{- range $name, $_ := .env }}
{{- if or (hasPrefix "OUTBOX_" $name) (hasPrefix "GOVERNOR_" $name) }}
{{- fail (printf "env: %s is a setting of the program: put it under settings" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.files }}
{{- if eq (empty .secret) (empty .configMap) }}
{{- fail (printf "files: %q needs either a secret or a configMap" .name) }}
{{- end }}
{{- end }}
{{- with .Values.serviceMonitor.storeRole }}
{{- if not (hasKey $names .) }}
{{- fail (printf "serviceMonitor.storeRole: there is no role %q" .) }}
{{- end }}
{{- end }}
{{- end }}
