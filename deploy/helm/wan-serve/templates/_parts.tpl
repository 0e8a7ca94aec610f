{{/* The row of variants.yaml. */}}
{{- define "row" -}}
{{- $table := .Files.Get "variants.yaml" | fromYaml -}}
{{- if not (hasKey $table .Values.variant) -}}
{{- fail (printf "variant: %s is unknown; allowed: %s" .Values.variant (keys $table | sortAlpha | join ", ")) -}}
{{- end -}}
{{- index $table .Values.variant | toYaml -}}
{{- end -}}

{{/* The size of a GPU pod: the table's, with what the values put in its place. */}}
{{- define "size" -}}
{{- $row := include "row" . | fromYaml -}}
{{- merge (deepCopy .Values.pods.size) (index $row.pods (.Values.gpus | toString)) | toYaml -}}
{{- end -}}

{{/* The configuration of Ray Serve. */}}
{{- define "serveConfig" -}}
{{- $row := include "row" . | fromYaml -}}
{{- $model := dict "name" .Values.variant "variant" .Values.variant "devices_per_replica" (mul .Values.gpus .Values.nodes) "weights" $row.weights -}}
{{- if gt (int .Values.nodes) 1 -}}{{- $_ := set $model "nodes_per_replica" .Values.nodes -}}{{- end -}}
{{- if $row.fusedLoras -}}{{- $_ := set $model "fused_loras" $row.fusedLoras -}}{{- end -}}
{{- $_ := set $model "autoscaling" (dict "min_replicas" .Values.pods.leastReplicas "max_replicas" "auto") -}}
{{- $model = merge (deepCopy .Values.model) $model -}}
{{- $args := dict "data_dir" "/data" "database_url" "sqlite+aiosqlite:////store/tasks.db" -}}
{{- $_ := set $args "max_gpus" (mul .Values.gpus .Values.pods.most) -}}
{{- $_ := set $args "ingress_replicas" 2 -}}
{{- $_ := set $args "tasks" (dict "longest_run_s" .Values.longestRunSeconds "drain_s" .Values.longestRunSeconds) -}}
{{- $_ := set $args "models" (list $model) -}}
{{- $args = merge (deepCopy .Values.settings) $args -}}
proxy_location: EveryNode
http_options: {host: 0.0.0.0, port: 8000}
applications:
  - name: wan-serve
    route_prefix: /
    import_path: serve_app.app:build
    autoscaling_policy: {policy_function: serve_app.scaling_policy:policy}
    args:
      {{- toYaml $args | nindent 6 }}
    # Both open the database, which only the front pod has.
    deployments:
      - {name: api, ray_actor_options: {num_cpus: 0.1, resources: {front: 0.01}}}
      - {name: coordinator, ray_actor_options: {num_cpus: 0.1, resources: {front: 0.01}}}
{{- end -}}

{{- define "podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{/* HAProxy in front of the api, on each node; Ray reads these once, so all pods have them. */}}
{{- define "environment" -}}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "2"}
- {name: RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S, value: "60"}
- {name: RAY_SERVE_HAPROXY_STATS_PORT, value: "8404"}
- {name: RAY_SERVE_HAPROXY_METRICS_PORT, value: "9101"}
- {name: RAY_SERVE_FALLBACK_PROXY_HTTP_PORT, value: "8500"}
- {name: RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S, value: "1"}
- {name: RAY_SERVE_FREEZE_GC_ON_STARTUP, value: "1"}
- {name: RAY_SERVE_LOG_TO_STDERR, value: "0"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_CONTROL_LOOP_INTERVAL_S, value: "0.4"}
- {name: REPORTER_UPDATE_INTERVAL_MS, value: "15000"}
- {name: METRICS_RECORD_INTERVAL_S, value: "60"}
- {name: RAY_event_stats, value: "0"}
- {name: RAY_event_stats_print_interval_ms, value: "86400000"}
- {name: WAN_SERVE_SERVICE, valueFrom: {fieldRef: {fieldPath: "metadata.labels['ray.io/cluster']"}}}
{{- end -}}

{{- define "workerPorts" -}}
- {name: metrics, containerPort: 8080}
- {name: haproxy, containerPort: 9101}
- {name: serve, containerPort: 8000}
{{- end -}}

{{- define "smallResources" -}}
requests: {cpu: "2", memory: 6Gi, ephemeral-storage: 12Gi}
limits: {cpu: "2", memory: 6Gi, ephemeral-storage: 12Gi}
{{- end -}}

{{- define "mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: data, mountPath: /data}
- {name: weights, mountPath: /weights, readOnly: true}
{{- end -}}

{{- define "sharedVolumes" -}}
- {name: data, persistentVolumeClaim: {claimName: {{ .Release.Name }}-data}}
- {name: weights, persistentVolumeClaim: {claimName: {{ .Release.Name }}-weights, readOnly: true}}
{{- end -}}
