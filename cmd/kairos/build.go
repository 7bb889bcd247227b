package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/moby/buildkit/client"
	bkbuild "github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/builder"
)

// buildOptions are the flags of `kairos build`: the ones of `docker buildx build`.
type buildOptions struct {
	file, target, progress, metadataFile, network, root string
	provenance, sbom                                    string
	tags, args, contexts, platforms, secrets, ssh       []string
	labels, outputs, cacheFrom, cacheTo, addHosts       []string
	allow, noCacheFilter, attests, annotations          []string
	ulimits, resources                                  []string
	iidFile, shmSize, cgroupParent                      string
	signKeys                                            []string
	noCache, push, release, load, pull, quiet           bool
}

func newBuildCommand(s streams) *cobra.Command { return new(buildOptions).command(s) }

func (o *buildOptions) command(s streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "build [flags] CONTEXT",
		Short: "Build a Dockerfile: an image, an ISO",
		Example: `  kairos build --output type=iso,dest=os.iso .
  kairos build --tag registry.example/os:v1 --push .
  kairos build --tag registry.example/os:v1 --push --release .
  kairos build --tag registry.example/os:v1 --push --release --sign-key release.key .
  kairos build -o type=oci,dest=os.tar -o type=iso,dest=os.iso .`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("kairos build needs one argument: the folder with the build context, usually `.`")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args[0], s) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&o.file, "file", "f", "", "the Dockerfile (default CONTEXT/Dockerfile)")
	f.StringArrayVarP(
		&o.outputs,
		"output",
		"o",
		nil,
		"where the result goes: type=iso|raw|qcow2|oci|docker|image|release|local|tar,dest=PATH,…; several times",
	)
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "name of the image")
	f.BoolVar(&o.push, "push", false, "push the image, as --output type=image,push=true")
	f.BoolVar(&o.release, "release", false, "with --push: publish the image's release, as kairos release does")
	f.StringArrayVar(&o.signKeys, "sign-key", nil,
		"sign the release, and what media have of an image that trusts keys, with the private key in this file, "+
			"- for standard input, or a token's pkcs11:URI; may be repeated")
	f.BoolVar(&o.load, "load", false, "load the image into the Docker engine, as --output type=docker")
	f.StringArrayVar(&o.args, "build-arg", nil, "ARG of the Dockerfile, NAME=VALUE or NAME for the environment's")
	f.StringArrayVar(
		&o.contexts,
		"build-context",
		nil,
		"another context, NAME=PATH, NAME=docker-image://REF or NAME=oci-layout://DIR[:TAG]",
	)
	f.StringVar(&o.target, "target", "", "stage to build")
	f.StringArrayVar(&o.platforms, "platform", nil, "platform to build for, as linux/arm64")
	f.StringArrayVar(&o.secrets, "secret", nil, "secret for the build, id=NAME,src=FILE or id=NAME,env=VARIABLE")
	f.StringArrayVar(&o.ssh, "ssh", nil, "SSH agent or keys for the build, default or NAME=PATH")
	f.StringArrayVar(&o.labels, "label", nil, "label of the image, NAME=VALUE")
	f.BoolVar(&o.noCache, "no-cache", false, "run every step again")
	f.StringSliceVar(&o.noCacheFilter, "no-cache-filter", nil, "stages whose steps run again")
	f.BoolVar(&o.pull, "pull", false, "ask the registry for newer base images")
	f.StringArrayVar(&o.cacheFrom, "cache-from", nil, "cache to read, as type=local,src=DIR or type=registry,ref=REF")
	f.StringArrayVar(&o.cacheTo, "cache-to", nil, "cache to write, as type=local,dest=DIR or type=registry,ref=REF")
	f.StringVar(&o.network, "network", "", "network of RUN steps: default, none or host")
	f.StringArrayVar(
		&o.addHosts,
		"add-host",
		nil,
		"entry of /etc/hosts in RUN steps, NAME:ADDRESS; host-gateway is this machine's address",
	)
	f.StringVar(&o.shmSize, "shm-size", "", "size of /dev/shm in RUN steps, as 2g")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "limit of the processes in RUN steps, NAME=SOFT[:HARD]")
	f.StringArrayVar(&o.resources, "resource", nil, "limit of RUN steps, as memory=2g or cpu-quota=50000")
	f.StringVar(&o.cgroupParent, "cgroup-parent", "", "parent cgroup of RUN steps")
	f.StringArrayVar(&o.allow, "allow", nil, "entitlement that the build may use, as network.host")
	f.StringArrayVar(
		&o.annotations,
		"annotation",
		nil,
		"annotation of the image, [manifest|index|…:]KEY=VALUE",
	)
	f.StringArrayVar(&o.attests, "attest", nil, "attach an attestation, type=provenance|sbom,…")
	f.StringVar(&o.provenance, "provenance", "", "attach provenance to the image, as mode=max")
	f.StringVar(&o.sbom, "sbom", "", "attach an SBOM to the image, true or generator=IMAGE")
	f.StringVar(&o.progress, "progress", "auto", "progress display: auto, plain, tty, quiet or rawjson")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write digests and sizes of the result to this file, as JSON")
	f.StringVar(&o.iidFile, "iidfile", "", "write the image's ID to this file")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress, and print the image's ID")
	f.StringVar(&o.root, "root", "", "the builder's state folder (default "+builder.DefaultRoot()+")")
	addRefused(f)
	o.addLimits(f)
	return c
}

func (o *buildOptions) run(ctx context.Context, contextDir string, s streams) (err error) {
	// All that can be wrong about the command is found before anything runs.
	solve, err := o.solveOptions()
	if err != nil {
		return err
	}
	signer, err := o.signer(s)
	if err != nil {
		return err
	}
	stdin, err := o.setContexts(&solve, contextDir, s)
	if err != nil {
		return err
	}
	defer stdin()
	if err := o.setSession(&solve, s); err != nil {
		return err
	}
	outs, err := o.openOutputs(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, outs.discard()) }()
	if err := o.checkID(outs.outputs); err != nil {
		return err
	}
	solve.Exports = outs.entries()
	if len(solve.Exports) == 0 {
		fmt.Fprintln(
			s.err,
			"kairos: no --output: the result stays in the build cache. For a medium use --output type=iso,dest=os.iso",
		)
	}

	waiting := func(root string) {
		fmt.Fprintf(
			s.err,
			"kairos: waiting for another kairos, which uses %s (or choose another folder with --root)\n",
			root,
		)
	}
	b, err := builder.Embed(ctx, builder.Options{
		Root: o.root, Entitlements: o.allow, Sign: signer, Waiting: waiting,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c, err := b.Client(ctx)
	if err != nil {
		return err
	}
	defer c.Close()

	resp, err := solveWithProgress(ctx, c, solve, o.progress, s.err)
	if err != nil {
		// A disk that is full here reaches the builder as a stream that broke.
		if werr := outs.writeError(); werr != nil {
			return werr
		}
		return err
	}
	files, err := outs.commit(s)
	if err != nil {
		return err
	}
	return errors.Join(o.writeMetadata(resp, files), o.writeID(resp, s))
}

// solveOptions is what the flags alone say.
func (o *buildOptions) solveOptions() (client.SolveOpt, error) {
	solve := client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}}
	if o.quiet {
		o.progress = "quiet"
	}
	if err := o.checkWords(); err != nil {
		return solve, err
	}
	if err := o.setAttrs(solve.FrontendAttrs); err != nil {
		return solve, err
	}
	solve.AllowedEntitlements = o.allow // with those that flags imply
	return solve, nil
}

// signer has the outputs signed in this process: the builder's requests, records and steps know nothing of the keys.
func (o *buildOptions) signer(s streams) (builder.Signer, error) {
	if len(o.signKeys) == 0 {
		return nil, nil
	}
	outs, err := o.parseOutputs()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(outs, func(out output) bool {
		return isMedium(out.typ) || out.typ == builder.TypeRelease || isTrue(out.attrs, "release")
	}) {
		return nil, usagef("--sign-key: what is to be signed? Add --push --release, or --output type=iso,dest=FILE")
	}
	if o.file == "-" && slices.Contains(o.signKeys, "-") {
		return nil, usagef("--sign-key -: standard input has the Dockerfile")
	}
	keys, err := privateKeys(o.signKeys, s)
	if err != nil {
		return nil, err
	}
	return builder.SignWith(keys), nil
}

// setAttrs sets what the Dockerfile frontend reads.
func (o *buildOptions) setAttrs(attrs map[string]string) error {
	if o.target != "" {
		attrs["target"] = o.target
	}
	if len(o.platforms) > 0 {
		attrs["platform"] = strings.Join(o.platforms, ",")
	}
	if o.noCache {
		attrs["no-cache"] = ""
	} else if len(o.noCacheFilter) > 0 {
		attrs["no-cache"] = strings.Join(o.noCacheFilter, ",")
	}
	if o.pull {
		attrs["image-resolve-mode"] = "pull"
	}
	if len(o.addHosts) > 0 {
		hosts, err := extraHosts(o.addHosts)
		if err != nil {
			return err
		}
		attrs["add-hosts"] = hosts
	}
	switch o.network {
	case "", "default":
	case "none", "host":
		attrs["force-network-mode"] = o.network
		if o.network == "host" {
			o.allow = append(o.allow, "network.host")
		}
	default:
		return usagef("--network %s: use default, none or host", o.network)
	}
	for _, arg := range o.args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				continue // as docker does: the ARG keeps its default
			}
		}
		attrs["build-arg:"+name] = value
	}
	if v := os.Getenv("SOURCE_DATE_EPOCH"); v != "" && attrs["build-arg:SOURCE_DATE_EPOCH"] == "" {
		attrs["build-arg:SOURCE_DATE_EPOCH"] = v
	}
	for _, label := range o.labels {
		name, value, _ := strings.Cut(label, "=")
		attrs["label:"+name] = value
	}
	if err := o.setResources(attrs); err != nil {
		return err
	}
	return o.setAttestations(attrs)
}

// setSession sets what the builder may ask of the machine that the build runs on.
func (o *buildOptions) setSession(solve *client.SolveOpt, s streams) error {
	docker := config.LoadDefaultConfigFile(s.err)
	solve.Session = append(solve.Session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(docker),
	}))
	var attach []func() (session.Attachable, error)
	if len(o.secrets) > 0 {
		attach = append(attach, func() (session.Attachable, error) { return bkbuild.ParseSecret(o.secrets) })
	}
	if len(o.ssh) > 0 {
		attach = append(attach, func() (session.Attachable, error) {
			agents, err := bkbuild.ParseSSH(o.ssh)
			if err != nil {
				return nil, err
			}
			return sshprovider.NewSSHAgentProvider(agents)
		})
	}
	for _, a := range attach {
		attachable, err := a()
		if err != nil {
			return usageError{err}
		}
		solve.Session = append(solve.Session, attachable)
	}
	var err error
	if solve.CacheImports, err = bkbuild.ParseImportCache(typed(o.cacheFrom)); err != nil {
		return usagef("--cache-from: %w", err)
	}
	if solve.CacheExports, err = bkbuild.ParseExportCache(typed(o.cacheTo)); err != nil {
		return usagef("--cache-to: %w", err)
	}
	if err := checkCaches("--cache-from", solve.CacheImports, map[string]string{
		"registry": "ref", "local": "src",
	}); err != nil {
		return err
	}
	return checkCaches("--cache-to", solve.CacheExports, map[string]string{
		"registry": "ref", "local": "dest", "inline": "",
	})
}

// typed gives a bare reference its type, as buildx does.
func typed(caches []string) []string {
	var out []string
	for _, c := range caches {
		if !strings.Contains(c, "=") {
			c = "type=registry,ref=" + c
		}
		out = append(out, c)
	}
	return out
}
