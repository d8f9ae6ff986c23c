package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/utils/tracing"
	"github.com/fluxcd/pkg/ssa/utils"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
)

const (
	argocdManager = "argocd-controller"
	// By this annotation Argo CD knows what belongs to an Application.
	tracking = "argocd.argoproj.io/tracking-id"
)

// An Application with the sync option ServerSideApply=true, as Argo CD's controller looks at it.
type application struct {
	target  objects
	check   healthCheck
	config  *rest.Config
	kubectl *kube.KubectlCmd
	cluster cache.ClusterCache
}

func argocd(ctx context.Context, command, name, script string, target objects) (map[string]string, error) {
	check, err := readHealthCheck(script)
	if err != nil {
		return nil, err
	}
	config, err := cluster()
	if err != nil {
		return nil, err
	}
	for _, object := range target {
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[tracking] = name + ":" + utils.FmtUnstructured(object)
		object.SetAnnotations(annotations)
	}
	// The cache keeps, beside an object, whether it belongs to the Application.
	objects := cache.NewClusterCache(config, cache.SetLogr(logr.Discard()), cache.SetPopulateResourceInfoHandler(
		func(object *unstructured.Unstructured, _ bool) (info any, cacheManifest bool) {
			own := strings.HasPrefix(object.GetAnnotations()[tracking], name+":")
			return own, own
		}))
	if err := objects.EnsureSynced(); err != nil {
		return nil, err
	}
	defer objects.Invalidate()
	kubectl := &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}
	app := application{target, check, config, kubectl, objects}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	switch command {
	case "sync":
		return app.sync(ctx)
	case "status":
		return app.status(ctx)
	default:
		return nil, fmt.Errorf("no such command of argocd: %s", command)
	}
}

// What should be there beside what is there.
func (app application) compare() (sync.ReconciliationResult, error) {
	live, err := app.cluster.GetManagedLiveObjs(app.target, func(resource *cache.Resource) bool {
		return resource.Info.(bool)
	})
	return sync.Reconcile(app.target, live, "default", app.cluster), err
}

// Passes over the Application until the operation is complete: a wave begins when the one before is healthy.
func (app application) sync(ctx context.Context) (map[string]string, error) {
	phase, message, results, started := common.OperationRunning, "", []common.ResourceSyncResult{}, metav1.Now()
	for !phase.Completed() {
		compared, err := app.compare()
		if err != nil {
			return nil, err
		}
		pass, cleanup, err := sync.NewSyncContext("revision", compared, app.config, app.config, app.kubectl, "default",
			sync.WithInitialState(phase, message, results, started), sync.WithHealthOverride(app.check),
			sync.WithOperationSettings(false, true, false, false), sync.WithServerSideApply(true),
			sync.WithServerSideApplyManager(argocdManager), sync.WithLogr(logr.Discard()))
		if err != nil {
			return nil, err
		}
		pass.Sync(ctx)
		phase, message, results = pass.GetState()
		cleanup()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s: %v", ctx.Err(), message, results)
		case <-time.After(100 * time.Millisecond):
		}
	}
	found := map[string]string{}
	for _, result := range results {
		found[name(result.ResourceKey)] = string(result.Status)
	}
	if !phase.Successful() {
		return nil, fmt.Errorf("%s: %v", message, results)
	}
	return found, nil
}

// Compares by a dry run on the API server, as Argo CD does where it applies there.
func (app application) status(ctx context.Context) (map[string]string, error) {
	compared, err := app.compare()
	if err != nil {
		return nil, err
	}
	runner, cleanup, err := app.kubectl.ManageServerSideDiffDryRuns(app.config)
	if err != nil {
		return nil, err
	}
	defer cleanup()
	differences, err := diff.DiffArray(ctx, compared.Target, compared.Live,
		diff.WithServerSideDiff(true), diff.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(runner)),
		diff.WithGVKParser(app.cluster.GetGVKParser()), diff.WithManager(argocdManager), diff.WithLogr(logr.Discard()))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for i, difference := range differences.Diffs {
		object, state := compared.Live[i], "Synced"
		if difference.Modified || compared.Target[i] == nil {
			state = "OutOfSync"
		}
		if object == nil {
			object, state = compared.Target[i], "OutOfSync, Missing"
		} else if status, err := health.GetResourceHealth(object, app.check); err != nil {
			return nil, err
		} else if status != nil {
			state += ", " + string(status.Status)
		}
		found[utils.FmtUnstructured(object)] = state
	}
	return found, nil
}

func name(key kube.ResourceKey) string {
	if key.Namespace == "" {
		return key.Kind + "/" + key.Name
	}
	return key.Kind + "/" + key.Namespace + "/" + key.Name
}
