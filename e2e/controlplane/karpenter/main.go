// The real Karpenter core, all its controllers, over its kwok provider (nodes are objects, no machine starts), with
// two differences from the `kwok` command of the Karpenter module:
//
//   - the provider is wrapped so that launches can be refused or delayed on request (provider.go, rules.go);
//   - it listens on loopback only, which `operator.NewOperator` cannot be told to do, so the manager is made here.
//
// Settings are Karpenter's own environment variables and flags, plus TRAINYARD_REFUSALS_FILE. It runs with the
// kubeconfig in KUBECONFIG until it is killed; there is no leader election.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/awslabs/operatorpkg/serrors"
	"github.com/go-logr/zapr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	kwok "sigs.k8s.io/karpenter/kwok/cloudprovider"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/overlay"
	"sigs.k8s.io/karpenter/pkg/controllers"
	"sigs.k8s.io/karpenter/pkg/controllers/nodeoverlay"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/events"
	"sigs.k8s.io/karpenter/pkg/operator"
	"sigs.k8s.io/karpenter/pkg/operator/injection"
	"sigs.k8s.io/karpenter/pkg/operator/logging"
	"sigs.k8s.io/karpenter/pkg/operator/options"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "karpenter:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx := injection.WithOptionsOrDie(context.Background(), options.Injectables...)
	logger := serrors.NewLogger(zapr.NewLogger(logging.NewLogger(ctx, "controller")))
	log.SetLogger(logger)
	klog.SetLogger(logger)
	ctx = log.IntoContext(ctx, logger)

	op, err := newOperator(ctx)
	if err != nil {
		return err
	}
	instanceTypes, err := kwok.ConstructInstanceTypes(ctx)
	if err != nil {
		return fmt.Errorf("reading instance types: %w", err)
	}
	provider := &refusing{
		CloudProvider: kwok.NewCloudProvider(ctx, op.GetClient(), instanceTypes),
		instanceTypes: instanceTypes,
		rules:         &ruleFile{path: os.Getenv("TRAINYARD_REFUSALS_FILE")},
	}
	decorated := overlay.Decorate(provider, op.GetClient(), op.InstanceTypeStore)
	op.WithControllers(ctx, controllers.NewControllers(
		ctx,
		op.Manager,
		op.Clock,
		op.GetClient(),
		op.EventRecorder,
		decorated,
		provider,
		state.NewCluster(op.Clock, op.GetClient(), decorated),
		op.InstanceTypeStore,
	)...).Start(ctx)
	return nil
}

// newOperator does what operator.NewOperator does, on loopback and without leader election.
func newOperator(ctx context.Context) (*operator.Operator, error) {
	opts := options.FromContext(ctx)
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS = float32(opts.KubeClientQPS)
	config.Burst = opts.KubeClientBurst
	config.UserAgent = operator.AppName + "/" + operator.Version

	logger := log.FromContext(ctx)
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Logger:                 logging.IgnoreDebugEvents(logger),
		Metrics:                server.Options{BindAddress: fmt.Sprintf("127.0.0.1:%d", opts.MetricsPort)},
		HealthProbeBindAddress: fmt.Sprintf("127.0.0.1:%d", opts.HealthProbePort),
		BaseContext: func() context.Context {
			return injection.WithOptionsOrDie(log.IntoContext(context.Background(), logger), options.Injectables...)
		},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			// Karpenter reads leases of nodes only, and asks the cache for that namespace.
			&coordinationv1.Lease{}: {Field: fields.SelectorFromSet(fields.Set{"metadata.namespace": corev1.NamespaceNodeLease})},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	if err := indexFields(ctx, mgr); err != nil {
		return nil, err
	}
	synced := func(req *http.Request) error {
		if !mgr.GetCache().WaitForCacheSync(req.Context()) {
			return errors.New("caches are not filled yet")
		}
		return nil
	}
	if err := errors.Join(mgr.AddReadyzCheck("caches", synced), mgr.AddHealthzCheck("healthz", healthz.Ping)); err != nil {
		return nil, err
	}
	kubeClient, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &operator.Operator{
		Manager:             mgr,
		KubernetesInterface: kubeClient,
		EventRecorder:       events.NewRecorder(mgr.GetEventRecorderFor(operator.AppName)), //nolint:staticcheck // what events.NewRecorder takes
		Clock:               clock.RealClock{},
		InstanceTypeStore:   nodeoverlay.NewInstanceTypeStore(),
	}, nil
}

// indexFields declares the cache indices that Karpenter's controllers look objects up by; a list by a field that is
// not here fails at run time.
func indexFields(ctx context.Context, mgr manager.Manager) error {
	index := mgr.GetFieldIndexer().IndexField
	return errors.Join(
		index(ctx, &corev1.Pod{}, "spec.nodeName", by(func(o *corev1.Pod) string { return o.Spec.NodeName })),
		index(ctx, &corev1.Node{}, "spec.providerID", by(func(o *corev1.Node) string { return o.Spec.ProviderID })),
		index(ctx, &storagev1.VolumeAttachment{}, "spec.nodeName", by(func(o *storagev1.VolumeAttachment) string { return o.Spec.NodeName })),
		index(ctx, &v1.NodeClaim{}, "status.providerID", by(func(o *v1.NodeClaim) string { return o.Status.ProviderID })),
		index(ctx, &v1.NodeClaim{}, "spec.nodeClassRef.group", by(func(o *v1.NodeClaim) string { return o.Spec.NodeClassRef.Group })),
		index(ctx, &v1.NodeClaim{}, "spec.nodeClassRef.kind", by(func(o *v1.NodeClaim) string { return o.Spec.NodeClassRef.Kind })),
		index(ctx, &v1.NodeClaim{}, "spec.nodeClassRef.name", by(func(o *v1.NodeClaim) string { return o.Spec.NodeClassRef.Name })),
		index(ctx, &v1.NodePool{}, "spec.template.spec.nodeClassRef.group", by(func(o *v1.NodePool) string { return o.Spec.Template.Spec.NodeClassRef.Group })),
		index(ctx, &v1.NodePool{}, "spec.template.spec.nodeClassRef.kind", by(func(o *v1.NodePool) string { return o.Spec.Template.Spec.NodeClassRef.Kind })),
		index(ctx, &v1.NodePool{}, "spec.template.spec.nodeClassRef.name", by(func(o *v1.NodePool) string { return o.Spec.Template.Spec.NodeClassRef.Name })),
	)
}

// by turns a typed field reader into the untyped function an index wants.
func by[T client.Object](read func(T) string) client.IndexerFunc {
	return func(o client.Object) []string { return []string{read(o.(T))} }
}
