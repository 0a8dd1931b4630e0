{{- define "headway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "headway.operator" -}}
{{ include "headway.fullname" . }}-operator
{{- end -}}

{{- define "headway.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "headway.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "headway.selector" -}}
app.kubernetes.io/name: headway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "headway.gateway" -}}
{{ include "headway.fullname" . }}-gateway
{{- end -}}

{{- define "headway.gatewaySelector" -}}
app.kubernetes.io/name: headway-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "headway.labels" -}}
{{ include "headway.selector" . }}
{{ include "headway.commonLabels" . }}
{{- end -}}

{{- define "headway.gatewayLabels" -}}
{{ include "headway.gatewaySelector" . }}
{{ include "headway.commonLabels" . }}
{{- end -}}

{{- define "headway.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Image by digest where one is given, otherwise by tag: (dict "image" IMAGE "root" $) */}}
{{- define "headway.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* Rules in the namespaces whose fleets the operator manages. They equal what its shell does: no more, no less. */}}
{{- define "headway.fleetRules" -}}
- apiGroups: [serving.headway.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch, patch]
- apiGroups: [serving.headway.dev]
  resources: [llmdeployments/status]
  verbs: [patch]
# Owner references that block deletion ask for this where the admission plugin for them is on.
- apiGroups: [serving.headway.dev]
  resources: [llmdeployments/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
# Server-side apply of a new object is a create and a patch. Deletion is left to the garbage collector.
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# An autoscaler that targets a fleet in mode Auto is reported: its writes are refused and leave no trace at the fleet.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
