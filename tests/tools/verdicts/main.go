// verdicts says what others make of Kubernetes objects: a JSON array comes on stdin, a JSON array of answers goes to
// stdout, in the same order.
//
//	verdicts kstatus            what Flux and Helm see: {status, message}, or {error}
//	verdicts argocd SCRIPT.lua  what Argo CD sees with this health check: {status, message}, or {error}
//	verdicts monitoring         whether the types of the Prometheus operator take them: {status: "Valid"}, or {error}
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type answer struct {
	Status  string `json:"status,omitempty"`
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "verdicts:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var objects []map[string]any
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		return err
	}
	var judge func(map[string]any) (answer, error)
	switch {
	case len(args) == 1 && args[0] == "kstatus":
		judge = kstatus
	case len(args) == 1 && args[0] == "monitoring":
		judge = monitoring
	case len(args) == 2 && args[0] == "argocd":
		script, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		judge = func(object map[string]any) (answer, error) { return argocd(string(script), object) }
	default:
		return fmt.Errorf("usage: verdicts kstatus | argocd SCRIPT.lua | monitoring")
	}
	answers := make([]answer, 0, len(objects))
	for _, object := range objects {
		given, err := judge(object)
		if err != nil {
			given = answer{Error: err.Error()}
		}
		answers = append(answers, given)
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

func kstatus(object map[string]any) (answer, error) {
	// The library reads integers as the API machinery decodes them, not as floats.
	text, err := json.Marshal(object)
	if err != nil {
		return answer{}, err
	}
	decoded := &unstructured.Unstructured{}
	if err := decoded.UnmarshalJSON(text); err != nil {
		return answer{}, err
	}
	result, err := status.Compute(decoded)
	if err != nil {
		return answer{}, err
	}
	return answer{Status: result.Status.String(), Message: result.Message}, nil
}

// As Argo CD runs health checks: base, package and table libraries, one second, the object as the global `obj`.
func argocd(script string, object map[string]any) (answer, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	libraries := map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	}
	for _, name := range []string{lua.LoadLibName, lua.BaseLibName, lua.TabLibName} {
		call := lua.P{Fn: state.NewFunction(libraries[name]), NRet: 0, Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return answer{}, err
		}
	}
	limited, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(limited)
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		return answer{}, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return answer{}, fmt.Errorf("the script returns no table but %s", state.Get(-1).Type())
	}
	return answer{Status: lua.LVAsString(table.RawGetString("status")), Message: lua.LVAsString(table.RawGetString("message"))}, nil
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, member := range value {
			table.RawSetString(key, toLua(state, member))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, member := range value {
			table.Append(toLua(state, member))
		}
		return table
	case string:
		return lua.LString(value)
	case float64:
		return lua.LNumber(value)
	case bool:
		return lua.LBool(value)
	default:
		return lua.LNil
	}
}

func monitoring(object map[string]any) (answer, error) {
	kinds := map[string]any{
		"PodMonitor":     &monitoringv1.PodMonitor{},
		"ServiceMonitor": &monitoringv1.ServiceMonitor{},
		"PrometheusRule": &monitoringv1.PrometheusRule{},
	}
	into, known := kinds[fmt.Sprint(object["kind"])]
	if !known {
		return answer{}, fmt.Errorf("%v is no kind of the Prometheus operator that is known here", object["kind"])
	}
	text, err := json.Marshal(object)
	if err != nil {
		return answer{}, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return answer{}, err
	}
	return answer{Status: "Valid"}, nil
}
