// The conformance suite of ClusterNetworkPolicy as one program, with all its features. The servers for SCTP in its pods
// are TCP ones (scripts/kubernetes-binaries), as they end where the kernel has no SCTP; its tests are not to be run then.
package policies

import (
	"embed"
	"testing"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	api "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

//go:embed base
var manifests embed.FS

func TestClusterNetworkPolicy(t *testing.T) {
	settings := config.GetConfigOrDie()
	objects, err := client.New(settings, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Install(objects.Scheme()); err != nil {
		t.Fatal(err)
	}
	all := suite.New(suite.Options{
		Client:                     objects,
		ClientSet:                  kubernetes.NewForConfigOrDie(settings),
		KubeConfig:                 *settings,
		CleanupBaseResources:       true,
		EnableAllSupportedFeatures: true,
		FS:                         &manifests,
	})
	all.Setup(t)
	all.Run(t, tests.ConformanceTests)
}
