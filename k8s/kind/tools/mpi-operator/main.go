// mpi-operator with a flag for the port of its health check.
//
// Upstream keeps that port, 8080, in a variable without a flag and ends when it is taken. Tests run more than one operator on a
// machine, often one where something else serves on 8080. All the rest is upstream's own.
package main

import (
	"flag"
	_ "unsafe" // for go:linkname

	"github.com/kubeflow/mpi-operator/cmd/mpi-operator/app"
	"github.com/kubeflow/mpi-operator/cmd/mpi-operator/app/options"
	"k8s.io/klog/v2"
)

//go:linkname healthCheckPort github.com/kubeflow/mpi-operator/cmd/mpi-operator/app.healthCheckPort
var healthCheckPort int

func main() {
	s := options.NewServerOption()
	s.AddFlags(flag.CommandLine)
	flag.IntVar(&healthCheckPort, "health-port", healthCheckPort, "Port of the health check.")
	flag.Parse()
	if err := app.Run(s); err != nil {
		klog.Fatalf("%v\n", err)
	}
}
