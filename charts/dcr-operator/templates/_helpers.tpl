{{- define "dcr-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "dcr-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "dcr-operator.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dcr-operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "dcr-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "dcr-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "dcr-operator.selectorLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ include "dcr-operator.name" . }}
{{- end -}}

{{- define "dcr-operator.labels" -}}
{{ include "dcr-operator.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dcr-operator.image" -}}
{{- $image := .Values.image -}}
{{- $repository := ternary (printf "%s/%s" $image.registry $image.repository) $image.repository (ne $image.registry "") -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/*
The documents of a file of plain manifests, as a list, without the empty ones.
*/}}
{{- define "dcr-operator.documents" -}}
{{- $documents := list -}}
{{- range regexSplit "(?m)^---\\s*$" .text -1 -}}
{{- $document := fromYaml . -}}
{{- if hasKey $document "Error" -}}{{- fail (printf "%s: %s" $.path $document.Error) -}}{{- end -}}
{{- if $document -}}{{- $documents = append $documents $document -}}{{- end -}}
{{- end -}}
{{- toJson $documents -}}
{{- end -}}

{{/*
An object of the plain manifests, as this release has it: with the release's names, namespace and labels.
*/}}
{{- define "dcr-operator.adopt" -}}
{{- $root := .root -}}
{{- $object := deepCopy .object -}}
{{- $fullname := include "dcr-operator.fullname" $root -}}
{{- $namespace := include "dcr-operator.namespace" $root -}}
{{- $metadata := $object.metadata -}}
{{- $_ := set $metadata "name" (regexReplaceAll "^dcr-operator(-|$)" $metadata.name (printf "%s$1" $fullname)) -}}
{{- if hasKey $metadata "namespace" -}}{{- $_ := set $metadata "namespace" $namespace -}}{{- end -}}
{{- $labels := omit (default dict $metadata.labels) "app.kubernetes.io/name" "app.kubernetes.io/instance" -}}
{{- $_ := set $metadata "labels" (merge (fromYaml (include "dcr-operator.labels" $root)) $labels) -}}
{{- with $object.roleRef -}}
{{- $_ := set . "name" (regexReplaceAll "^dcr-operator(-|$)" .name (printf "%s$1" $fullname)) -}}
{{- end -}}
{{- range $object.subjects -}}
{{- $_ := set . "name" (include "dcr-operator.serviceAccount" $root) -}}
{{- $_ := set . "namespace" $namespace -}}
{{- end -}}
{{- toJson $object -}}
{{- end -}}

{{/*
Environment of the operator: what every flag of `dcr-operator run` reads.
*/}}
{{- define "dcr-operator.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: DCR_OPERATOR_ADMISSION_BINDINGS
  value: {{ and .Values.admissionPolicy.enabled (empty .Values.namespaces) | quote }}
- name: DCR_OPERATOR_ALLOW_INSECURE_HTTP
  value: {{ .Values.allowInsecureHttp | quote }}
- name: DCR_OPERATOR_DELETION_TIMEOUT
  value: {{ .Values.deletionTimeout | quote }}
- name: DCR_OPERATOR_LEADER_ELECT
  value: {{ .Values.leaderElection.enabled | quote }}
- name: DCR_OPERATOR_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: DCR_OPERATOR_LOG_LEVEL
  value: {{ .Values.log.level | quote }}
{{- with .Values.namespaces }}
- name: DCR_OPERATOR_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
- name: DCR_OPERATOR_WORKERS
  value: {{ .Values.workers | quote }}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
- name: SSL_CERT_FILE
  value: /etc/dcr-operator/trust/{{ .Values.caBundle.key }}
{{- end }}
{{- with .Values.proxy.httpProxy }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.httpsProxy }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.noProxy }}
- name: NO_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
