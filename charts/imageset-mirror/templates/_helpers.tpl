{{/* Names are cut so that the longest suffix still fits into 63 characters. */}}
{{- define "imageset-mirror.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "imageset-mirror.fullname" -}}
{{- $name := include "imageset-mirror.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "imageset-mirror.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "imageset-mirror.service-account" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "imageset-mirror.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Part of selectors, which cannot be changed: nothing is ever added here. */}}
{{- define "imageset-mirror.selector" -}}
app.kubernetes.io/name: {{ include "imageset-mirror.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "imageset-mirror.common-labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: imageset-mirror
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "imageset-mirror.labels" -}}
{{ include "imageset-mirror.selector" . }}
{{ include "imageset-mirror.common-labels" . }}
{{- end }}

{{- define "imageset-mirror.annotations" -}}
{{- with .Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Name, labels and annotations of an object: (list CONTEXT SUFFIX), or (list CONTEXT SUFFIX NAMESPACE). */}}
{{- define "imageset-mirror.metadata" -}}
{{- $context := index . 0 -}}
name: {{ include "imageset-mirror.fullname" $context }}{{ index . 1 }}
{{- if gt (len .) 2 }}
namespace: {{ index . 2 }}
{{- end }}
labels:
  {{- include "imageset-mirror.labels" $context | nindent 2 }}
{{- with include "imageset-mirror.annotations" $context }}
{{ . }}
{{- end }}
{{- end }}

{{/* The same of an object that lives in the operator's namespace: (list CONTEXT SUFFIX). */}}
{{- define "imageset-mirror.namespaced-metadata" -}}
{{ include "imageset-mirror.metadata" (append . (include "imageset-mirror.namespace" (index . 0))) }}
{{- end }}

{{- define "imageset-mirror.crd-annotations" -}}
{{- $keep := ternary (dict "helm.sh/resource-policy" "keep") (dict) .Values.crds.keep }}
{{- with merge $keep .Values.crds.annotations .Values.commonAnnotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "imageset-mirror.image" -}}
{{- $version := printf ":%s" (default .Chart.AppVersion .Values.image.tag) }}
{{- with .Values.image.digest }}
{{- $version = printf "@%s" . }}
{{- end }}
{{- printf "%s/%s%s" .Values.image.registry .Values.image.repository $version }}
{{- end }}

{{/* The namespaces whose objects are watched, as a JSON list. */}}
{{- define "imageset-mirror.watched" -}}
{{- default (list (include "imageset-mirror.namespace" .)) .Values.watchNamespaces | uniq | toJson }}
{{- end }}

{{/* What the operator may write to the cluster, as `check` names it: a JSON list, `none` for nothing. */}}
{{- define "imageset-mirror.outputs" -}}
{{- $outputs := list }}
{{- range $kind := list "imageDigestMirrorSet" "imageTagMirrorSet" }}
{{- if index $.Values.outputs $kind }}
{{- $outputs = append $outputs (printf "%ss" (lower $kind)) }}
{{- end }}
{{- end }}
{{- if include "imageset-mirror.writes-signatures" . }}
{{- $outputs = append $outputs "releasesignatures" }}
{{- end }}
{{- range $kind := list "catalogSource" "clusterCatalog" "updateService" }}
{{- if index $.Values.outputs $kind }}
{{- $outputs = append $outputs (printf "%ss" (lower $kind)) }}
{{- end }}
{{- end }}
{{- default (list "none") $outputs | toJson }}
{{- end }}

{{/* Whether release signatures may be written: only OpenShift has the namespace for them. */}}
{{- define "imageset-mirror.writes-signatures" -}}
{{- if and .Values.outputs.releaseSignatures (include "imageset-mirror.on-openshift" .) }}true{{ end }}
{{- end }}

{{- define "imageset-mirror.on-openshift" -}}
{{- if or (eq .Values.openshift "enabled") (and (eq .Values.openshift "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) }}true{{ end }}
{{- end }}

{{/* Whether an object of an optional kind is made: (list CONTEXT VALUES API). */}}
{{- define "imageset-mirror.renders" -}}
{{- $values := index . 1 }}
{{- $served := (index . 0).Capabilities.APIVersions.Has (index . 2) }}
{{- if $values.enabled }}
{{- if and (eq $values.renderMode "failIfMissing") (not $served) }}
{{- fail (printf "the cluster does not serve %s: install the Prometheus operator, or set renderMode to skipIfMissing or alwaysRender" (index . 2)) }}
{{- end }}
{{- if or $served (eq $values.renderMode "alwaysRender") }}true{{ end }}
{{- end }}
{{- end }}

{{- define "imageset-mirror.subject" -}}
- kind: ServiceAccount
  name: {{ include "imageset-mirror.service-account" . }}
  namespace: {{ include "imageset-mirror.namespace" . }}
{{- end }}

{{/* What every container has in common: the operator's and the test's. */}}
{{- define "imageset-mirror.container" -}}
image: {{ include "imageset-mirror.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end }}

{{/* Where a pod is from and what it may do: the operator's and the test's. */}}
{{- define "imageset-mirror.pod" -}}
serviceAccountName: {{ include "imageset-mirror.service-account" . }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The pod's own name and namespace, which arguments refer to. */}}
{{- define "imageset-mirror.pod-env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end }}

{{/* By these labels the pod of `helm test` is known; none of the selectors above is for it. */}}
{{- define "imageset-mirror.test-selector" -}}
app.kubernetes.io/name: {{ include "imageset-mirror.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{/* Name, labels and annotations of an object of `helm test`, of which nothing stays, however it ends: (list CONTEXT WEIGHT). */}}
{{- define "imageset-mirror.test-metadata" -}}
{{- $context := index . 0 -}}
name: {{ include "imageset-mirror.fullname" $context }}-test
namespace: {{ include "imageset-mirror.namespace" $context }}
labels:
  {{- include "imageset-mirror.test-selector" $context | nindent 2 }}
  {{- include "imageset-mirror.common-labels" $context | nindent 2 }}
annotations:
  helm.sh/hook: test
  helm.sh/hook-weight: {{ index . 1 | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
  helm.sh/hook-output-log-policy: hook-succeeded,hook-failed
  {{- with $context.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Whether admission policies are made. By version: what is rendered without a cluster knows no kinds. */}}
{{- define "imageset-mirror.admission" -}}
{{- $served := semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}
{{- $enabled := toString .Values.admissionPolicy.enabled }}
{{- if or (eq $enabled "true") (and $served (eq $enabled "auto")) }}true{{ end }}
{{- end }}

{{/* What objects may ask for, as the policy reads it; empty for anything. */}}
{{- define "imageset-mirror.limits" -}}
{{- with .Values.admissionPolicy.limits }}
{{- with .registries }}
registries: {{ join " " . | quote }}
{{- end }}
{{- if .verifyTLS }}
tls: Verify
{{- end }}
{{- with .maxImages }}
maxImages: {{ int . | quote }}
{{- end }}
{{- with .maxConcurrency }}
maxConcurrency: {{ int . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where names are asked for: 5353 is where OpenShift's DNS pods listen. */}}
{{- define "imageset-mirror.dns-ports" -}}
{{- range $port := list 53 5353 }}
- {port: {{ $port }}, protocol: UDP}
- {port: {{ $port }}, protocol: TCP}
{{- end }}
{{- end }}
