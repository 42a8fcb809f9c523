{{- define "prfaas.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "prfaas.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains (include "prfaas.name" .) .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "prfaas.name" .) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods and never change. Takes (dict "root" $ "part" "operator"). */}}
{{- define "prfaas.selectorLabels" -}}
app.kubernetes.io/name: {{ include "prfaas.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* Labels of every object. Takes the same; part may be absent. */}}
{{- define "prfaas.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "prfaas.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: prfaas
{{- with .part }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* registry/repository@digest, or :tag. Takes (dict "root" $ "image" .Values.x.image). */}}
{{- define "prfaas.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- $repository := required "an image needs its repository" .image.repository -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ $repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end -}}
{{- end -}}

{{- define "prfaas.serviceAccountName" -}}
{{- $account := (index .root.Values .part).serviceAccount -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if $account.create -}}
{{- printf "%s-%s" (include "prfaas.fullname" .root) .part -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* What the `restricted` pod security standard asks for, and a read-only root. */}}
{{- define "prfaas.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "prfaas.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The scheduling part of a pod's spec. Takes (dict "root" $ "part" "operator"). */}}
{{- define "prfaas.scheduling" -}}
{{- $values := index .root.Values .part -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "prfaas.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/* The generated rules of one part and scope. Takes (dict "root" $ "part" "operator" "scope" "own"). */}}
{{- define "prfaas.rules" -}}
{{- $access := .root.Files.Get "files/access.yaml" | fromYaml -}}
{{- $rules := index (index $access .part) .scope | default list -}}
{{- if and (eq .part "operator") (eq .root.Values.federation.source "Hub") -}}
{{- $rules = concat $rules (index (index $access "mirror") .scope | default list) -}}
{{- end -}}
{{- if and (eq .part "operator") .root.Values.certificates.issuerRef.name -}}
{{- $rules = concat $rules (index (index $access "issuer") .scope | default list) -}}
{{- end -}}
{{- if $rules }}{{ toYaml $rules }}{{ end -}}
{{- end -}}

{{/* Names the certificate in the Secret prfaas-gateway-tls; operator and gateways must agree on it. */}}
{{- define "prfaas.gatewayName" -}}
{{- include "prfaas.fullname" . -}}-gateway
{{- end -}}

{{- define "prfaas.gatewayIdentity" -}}
spiffe://{{ .Values.trustDomain }}/region/{{ .Values.region }}/ns/{{ .Release.Namespace }}/gateway/{{ include "prfaas.gatewayName" . }}
{{- end -}}
