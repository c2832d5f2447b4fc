package docs

import (
	"os"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// The types are those of Kubernetes itself. A field that it does not have, has elsewhere,
// or has twice, is an error.
func TestTheManifestHasOnlyFieldsThatKubernetesHas(t *testing.T) {
	page, err := os.ReadFile("kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]func() any{
		"Secret":              func() any { return new(core.Secret) },
		"Service":             func() any { return new(core.Service) },
		"Deployment":          func() any { return new(apps.Deployment) },
		"NetworkPolicy":       func() any { return new(networking.NetworkPolicy) },
		"PodDisruptionBudget": func() any { return new(policy.PodDisruptionBudget) },
	}
	seen := map[string]bool{}
	for _, m := range block.FindAllStringSubmatch(string(page), -1) {
		if m[1] != "yaml" {
			continue
		}
		for _, document := range strings.Split(m[2], "---\n") {
			var of struct{ Kind string }
			if err := yaml.Unmarshal([]byte(document), &of); err != nil {
				t.Fatalf("%v in:\n%s", err, document)
			}
			into, known := kinds[of.Kind]
			if !known {
				t.Errorf("kind %q has no type here", of.Kind)
				continue
			}
			seen[of.Kind] = true
			if err := yaml.UnmarshalStrict([]byte(document), into()); err != nil {
				t.Errorf("%s: %v", of.Kind, err)
			}
		}
	}
	if len(seen) != len(kinds) {
		t.Errorf("the page has only %v", seen)
	}
}
