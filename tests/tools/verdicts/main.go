// verdicts says what others make of Kubernetes objects: a JSON array of objects comes on stdin, JSON goes to stdout.
//
// What they see, as an array in the same order, {status, message} or {error}:
//
//	verdicts kstatus            Flux and Helm
//	verdicts health SCRIPT.lua  Argo CD, with this health check
//
// What they do, with their own engines on the cluster of KUBECONFIG, as an object by Kind/namespace/name:
//
//	verdicts flux apply                            applies in stages: created, configured or unchanged
//	verdicts flux wait                             waits until all are ready, as `wait: true` does
//	verdicts flux diff                             dry run: unchanged, or what an apply would do
//	verdicts flux prune                            deletes what Flux has applied, and waits until it is gone
//	verdicts argocd sync APPLICATION SCRIPT.lua    syncs wave by wave, by server-side apply, with pruning
//	verdicts argocd status APPLICATION SCRIPT.lua  Synced or OutOfSync, and the health
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

type answer struct {
	Status  string `json:"status,omitempty"`
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
}

type objects = []*unstructured.Unstructured

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "verdicts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var given objects
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		return err
	}
	var result any
	var err error
	switch {
	case len(args) == 1 && args[0] == "kstatus":
		result = each(given, kstatus)
	case len(args) == 2 && args[0] == "health":
		var check healthCheck
		check, err = readHealthCheck(args[1])
		result = each(given, check.answer)
	case len(args) == 2 && args[0] == "flux":
		result, err = flux(ctx, args[1], given)
	case len(args) == 4 && args[0] == "argocd":
		result, err = argocd(ctx, args[1], args[2], args[3], given)
	default:
		err = fmt.Errorf("no such command: %q", args)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func each(given objects, judge func(*unstructured.Unstructured) (answer, error)) []answer {
	answers := make([]answer, 0, len(given))
	for _, object := range given {
		result, err := judge(object)
		if err != nil {
			result = answer{Error: err.Error()}
		}
		answers = append(answers, result)
	}
	return answers
}

func kstatus(object *unstructured.Unstructured) (answer, error) {
	result, err := status.Compute(object)
	if err != nil {
		return answer{}, err
	}
	return answer{Status: result.Status.String(), Message: result.Message}, nil
}

func cluster() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err == nil {
		// As many requests as the API server takes.
		config.QPS = -1
		config.WarningHandler = rest.NoWarnings{}
	}
	return config, err
}
