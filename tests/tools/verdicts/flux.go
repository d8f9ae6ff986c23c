package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What kustomize-controller does for a Kustomization, with its field manager and its labels.
func flux(ctx context.Context, command string, given objects) (map[string]ssa.Action, error) {
	config, err := cluster()
	if err != nil {
		return nil, err
	}
	kube, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	manager := ssa.NewResourceManager(kube, polling.NewStatusPoller(kube, kube.RESTMapper(), polling.Options{}),
		ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"})
	manager.SetOwnerLabels(given, "verdicts", "flux-system")
	if err := normalize.UnstructuredList(given); err != nil {
		return nil, err
	}
	waiting := ssa.WaitOptions{Interval: time.Second, Timeout: time.Minute, FailFast: true}

	changes := ssa.NewChangeSet()
	switch command {
	case "apply":
		changes, err = manager.ApplyAllStaged(ctx, given, ssa.DefaultApplyOptions())
	case "wait":
		err = manager.Wait(given, waiting)
	case "diff":
		for _, object := range given {
			change, _, _, err := manager.Diff(ctx, object, ssa.DefaultDiffOptions())
			if err != nil {
				return nil, err
			}
			changes.Add(*change)
		}
	case "prune":
		changes, err = manager.DeleteAll(ctx, given, ssa.DeleteOptions{
			PropagationPolicy: metav1.DeletePropagationBackground,
			Inclusions:        manager.GetOwnerLabels("verdicts", "flux-system"),
		})
		if err == nil {
			err = manager.WaitForTermination(given, waiting)
		}
	default:
		err = fmt.Errorf("no such command of flux: %s", command)
	}
	if err != nil {
		return nil, err
	}
	return changes.ToMap(), nil
}
