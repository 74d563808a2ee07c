// Kubernetes' end-to-end specs of the network as one program. `e2e.test -print-images` says what its pods run: kind and name.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"

	conformance "k8s.io/kubernetes/test/conformance/testdata"
	kubernetes "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/e2e/feature"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	_ "k8s.io/kubernetes/test/e2e/network"
	manifests "k8s.io/kubernetes/test/e2e/testing-manifests"
	fixtures "k8s.io/kubernetes/test/fixtures"
	_ "k8s.io/kubernetes/test/utils/format"
	"k8s.io/kubernetes/test/utils/image"
)

var kinds = []struct {
	name string
	id   image.ImageID
}{
	{"agnhost", image.Agnhost},
	{"agnhost-prev", image.AgnhostPrev},
	{"busybox", image.BusyBox},
	{"glibc-dns", image.GlibcDnsTesting},
	{"iptables", image.DistrolessIptables},
	{"pause", image.Pause},
	{"regression", image.RegressionIssue74839},
}

func TestMain(m *testing.M) {
	printImages := flag.Bool("print-images", false, "print the images of the specs' pods")
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	if *printImages {
		for _, kind := range kinds {
			fmt.Println(kind.name, image.GetE2EImage(kind.id))
		}
		return
	}
	testfiles.AddFileSource(manifests.GetE2ETestingManifestsFS())
	testfiles.AddFileSource(fixtures.GetTestFixturesFS())
	testfiles.AddFileSource(conformance.GetConformanceTestdataFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

func TestE2E(t *testing.T) { kubernetes.RunE2ETests(t) }
