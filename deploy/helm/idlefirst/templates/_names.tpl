{{- /* Labels of every object. Selectors take only the first: what selects must never change. */ -}}
{{- define "idlefirst.labels" -}}
app.kubernetes.io/name: idlefirst
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Cluster-wide objects carry the release's name, unless it is the chart's: then nothing is doubled. */ -}}
{{- define "idlefirst.name" -}}
{{- if contains "idlefirst" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-idlefirst" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The configuration file: the defaults, with the values laid over them. */ -}}
{{- define "idlefirst.config" -}}
{{- $defaults := .Files.Get "files/config.yaml" | fromYaml -}}
{{- mergeOverwrite $defaults (deepCopy .Values.config) | toYaml -}}
{{- end -}}
