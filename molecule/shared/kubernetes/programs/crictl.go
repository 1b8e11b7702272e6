// crictl speaks the container runtime interface with a runtime on a unix socket: what kubeadm and a person on a test
// host need of the program of that name, which no Debian package has.
//
//	crictl [-r unix:///run/containerd/containerd.sock] info | version | pods | ps | images
//	crictl [-r ...] stopp | rmp | stop | rm | pull | inspecti ID...
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

type client struct {
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
}

// show prints a whole message.
func show(message interface{}) error {
	text, err := json.MarshalIndent(message, "", "  ")
	if err == nil {
		fmt.Println(string(text))
	}
	return err
}

// list prints what the runtime has: only ids when quiet.
func (c client) list(ctx context.Context, what string, quiet bool) error {
	switch what {
	case "pods":
		reply, err := c.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		for _, pod := range reply.Items {
			if quiet {
				fmt.Println(pod.Id)
			} else {
				fmt.Println(pod.Id, pod.Metadata.Namespace+"/"+pod.Metadata.Name, pod.State)
			}
		}
	case "ps":
		reply, err := c.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
		if err != nil {
			return err
		}
		for _, container := range reply.Containers {
			if quiet {
				fmt.Println(container.Id)
			} else {
				fmt.Println(container.Id, container.Metadata.Name, container.State)
			}
		}
	case "images":
		reply, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
		if err != nil {
			return err
		}
		for _, image := range reply.Images {
			if quiet {
				fmt.Println(image.Id)
			} else {
				fmt.Println(image.Id, strings.Join(image.RepoTags, " "))
			}
		}
	}
	return nil
}

// each does one thing with one pod, container or image.
func (c client) each(ctx context.Context, verb, id string) error {
	image := &cri.ImageSpec{Image: id}
	var err error
	switch verb {
	case "stopp":
		_, err = c.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	case "rmp":
		_, err = c.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	case "stop":
		_, err = c.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id})
	case "rm":
		_, err = c.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
	case "pull":
		_, err = c.images.PullImage(ctx, &cri.PullImageRequest{Image: image})
	case "inspecti":
		var reply *cri.ImageStatusResponse
		if reply, err = c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: image}); err == nil && reply.Image == nil {
			err = fmt.Errorf("the runtime has no image %s", id)
		} else if err == nil {
			err = show(reply.Image)
		}
	default:
		err = fmt.Errorf("it is no command of this crictl")
	}
	return err
}

func run(endpoint string, timeout time.Duration, arguments []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", address)
	}
	path := strings.TrimPrefix(endpoint, "unix://")
	connection, err := grpc.DialContext(ctx, path, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithContextDialer(dial))
	if err != nil {
		return fmt.Errorf("no runtime answers at %s: %v", endpoint, err)
	}
	defer connection.Close()
	c := client{cri.NewRuntimeServiceClient(connection), cri.NewImageServiceClient(connection)}

	verb := arguments[0]
	flags := flag.NewFlagSet(verb, flag.ExitOnError)
	quiet := flags.Bool("q", false, "print only ids")
	flags.Bool("f", false, "accepted; removing always ends what runs")
	flags.Bool("a", false, "accepted; all are listed anyway")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	switch verb {
	case "info":
		reply, err := c.runtime.Status(ctx, &cri.StatusRequest{})
		if err != nil {
			return err
		}
		return show(reply)
	case "version":
		reply, err := c.runtime.Version(ctx, &cri.VersionRequest{Version: "v1alpha2"})
		if err != nil {
			return err
		}
		return show(reply)
	case "pods", "ps", "images":
		return c.list(ctx, verb, *quiet)
	}
	for _, id := range flags.Args() {
		if err := c.each(ctx, verb, id); err != nil {
			return fmt.Errorf("%s %s: %v", verb, id, err)
		}
	}
	return nil
}

func main() {
	endpoint := "unix:///run/containerd/containerd.sock"
	flag.StringVar(&endpoint, "r", endpoint, "the runtime's socket")
	flag.StringVar(&endpoint, "runtime-endpoint", endpoint, "the runtime's socket")
	timeout := flag.Duration("timeout", 30*time.Second, "how long everything may take")
	version := flag.Bool("version", false, "say which interface this speaks")
	flag.Parse()
	if *version {
		fmt.Println("crictl version v1.20.0 (runtime interface v1alpha2)")
		return
	}
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "crictl: say what to do: info, version, pods, ps, images, stopp, rmp, stop, rm, pull or inspecti")
		os.Exit(2)
	}
	if err := run(endpoint, *timeout, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}
