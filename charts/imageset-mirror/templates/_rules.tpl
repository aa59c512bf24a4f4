{{/* Generated from src/api/rbac.rs; do not edit. */}}

{{- define "imageset-mirror.rules.cluster" }}
# Mirror sets are written, and all of them are read to find conflicts before that.
- apiGroups: [config.openshift.io]
  resources: [imagedigestmirrorsets]
  verbs: {{ ternary "[get, list, watch, create, patch, delete]" "[get, list, watch]" .Values.outputs.imageDigestMirrorSet }}
# Mirror sets are written, and all of them are read to find conflicts before that.
- apiGroups: [config.openshift.io]
  resources: [imagetagmirrorsets]
  verbs: {{ ternary "[get, list, watch, create, patch, delete]" "[get, list, watch]" .Values.outputs.imageTagMirrorSet }}
# Their predecessor is read for the same reason.
- apiGroups: [operator.openshift.io]
  resources: [imagecontentsourcepolicies]
  verbs: [list]
# Registries that nodes may not use.
- apiGroups: [config.openshift.io]
  resources: [images]
  resourceNames: [cluster]
  verbs: [get]
# Pools that are busy or paused.
- apiGroups: [machineconfiguration.openshift.io]
  resources: [machineconfigpools]
  verbs: [list]
# The UID of this namespace tells one cluster from another in a shared target.
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
{{- end }}

{{- define "imageset-mirror.rules.watched" }}
# The objects; patch is for their finalizer.
- apiGroups: [mirror.openshift.io]
  resources: [imagesetmirrors]
  verbs: [get, list, watch, patch]
# Their status.
- apiGroups: [mirror.openshift.io]
  resources: [imagesetmirrors/status]
  verbs: [patch]
# Never used as such: OpenShift asks for it before an object may own another.
- apiGroups: [mirror.openshift.io]
  resources: [imagesetmirrors/finalizers]
  verbs: [update]
# Credentials, by the names that objects give. No list: nothing can be enumerated.
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.rbac.secretNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [get]
# Certificates by name, and the manifests that are published.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch, delete]
# Events of the objects.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "imageset-mirror.rules.own" }}
# The lease of the leader.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# The same.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "imageset-mirror.fullname" . }}]
  verbs: [get, update]
{{- end }}

{{- define "imageset-mirror.rules.viewer" }}
# The objects.
- apiGroups: [mirror.openshift.io]
  resources: [imagesetmirrors, imagesetmirrors/status]
  verbs: [get, list, watch]
{{- end }}

{{- define "imageset-mirror.rules.editor" }}
# The objects.
- apiGroups: [mirror.openshift.io]
  resources: [imagesetmirrors]
  verbs: [get, list, watch, create, update, patch, delete, deletecollection]
# Their status.
- apiGroups: [mirror.openshift.io]
  resources: [imagesetmirrors/status]
  verbs: [get]
{{- end }}

{{- define "imageset-mirror.rules.signatures" }}
# Release signatures are written where the cluster looks for them. By name: nothing can be enumerated.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch, delete]
{{- end }}

{{- define "imageset-mirror.rules.catalog-source" }}
# Catalogs are written, in the namespace that the object names.
- apiGroups: [operators.coreos.com]
  resources: [catalogsources]
  verbs: [get, create, patch, delete]
{{- end }}

{{- define "imageset-mirror.rules.cluster-catalog" }}
# Catalogs are written.
- apiGroups: [olm.operatorframework.io]
  resources: [clustercatalogs]
  verbs: [get, create, patch, delete]
{{- end }}

{{- define "imageset-mirror.rules.update-service" }}
# The update service is written, in the namespace that the object names.
- apiGroups: [updateservice.operator.openshift.io]
  resources: [updateservices]
  verbs: [get, create, patch, delete]
{{- end }}
