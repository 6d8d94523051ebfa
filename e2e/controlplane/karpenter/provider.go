package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/scheduling"
)

// refusing is a cloud provider that behaves as a cloud does when capacity runs out. It looks at every offering
// (size, zone, capacity type) a claim would accept, drops those a rule refuses, and has the wrapped provider launch
// the cheapest one left. With none left the claim gets the error the rule names.
type refusing struct {
	cloudprovider.CloudProvider
	instanceTypes []*cloudprovider.InstanceType
	rules         *ruleFile
}

// candidate is one offering a claim would accept.
type candidate struct {
	instanceType string
	zone         string
	capacityType string
	price        float64
}

func (r *refusing) Create(ctx context.Context, claim *v1.NodeClaim) (*v1.NodeClaim, error) {
	candidates, known := r.candidates(claim)
	if !known {
		// A size that does not exist is the wrapped provider's to report.
		return r.CloudProvider.Create(ctx, claim)
	}
	chosen, delay, err := r.rules.choose(claim.Name, candidates)
	if err != nil {
		log.FromContext(ctx).Info("launch refused", "NodeClaim", claim.Name, "error", err.Error())
		return nil, err
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return r.CloudProvider.Create(ctx, pinned(claim, chosen))
}

// candidates lists what the claim would accept, cheapest first; false when it names a size that does not exist, or
// none at all.
func (r *refusing) candidates(claim *v1.NodeClaim) ([]candidate, bool) {
	index := slices.IndexFunc(claim.Spec.Requirements, func(q v1.NodeSelectorRequirementWithMinValues) bool {
		return q.Key == corev1.LabelInstanceTypeStable
	})
	if index < 0 {
		return nil, false
	}
	requirements := scheduling.NewNodeSelectorRequirementsWithMinValues(claim.Spec.Requirements...)
	var found []candidate
	for _, name := range claim.Spec.Requirements[index].Values {
		at := slices.IndexFunc(r.instanceTypes, func(it *cloudprovider.InstanceType) bool { return it.Name == name })
		if at < 0 {
			return nil, false
		}
		for _, offering := range r.instanceTypes[at].Offerings.Available().Compatible(requirements) {
			found = append(found, candidate{name, offering.Zone(), offering.CapacityType(), offering.Price})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		switch {
		case a.price < b.price:
			return -1
		case a.price > b.price:
			return 1
		default:
			return 0
		}
	})
	return found, true
}

// pinned is a copy of the claim that accepts the chosen offering only.
func pinned(claim *v1.NodeClaim, chosen candidate) *v1.NodeClaim {
	pin := map[string]string{
		corev1.LabelInstanceTypeStable: chosen.instanceType,
		corev1.LabelTopologyZone:       chosen.zone,
		v1.CapacityTypeLabelKey:        chosen.capacityType,
	}
	copied := claim.DeepCopy()
	copied.Spec.Requirements = slices.DeleteFunc(copied.Spec.Requirements, func(q v1.NodeSelectorRequirementWithMinValues) bool {
		_, replaced := pin[q.Key]
		return replaced
	})
	for _, key := range []string{corev1.LabelInstanceTypeStable, corev1.LabelTopologyZone, v1.CapacityTypeLabelKey} {
		copied.Spec.Requirements = append(copied.Spec.Requirements, v1.NodeSelectorRequirementWithMinValues{
			Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{pin[key]},
		})
	}
	return copied
}

// launchError is what Karpenter's core is given for a refusal of the named kind.
func launchError(kind, message string) error {
	cause := errors.New(message)
	switch kind {
	case "InsufficientCapacity":
		return cloudprovider.NewInsufficientCapacityError(cause)
	case "NodeClassNotReady":
		return cloudprovider.NewNodeClassNotReadyError(cause)
	default:
		// Any other word is the reason of the claim's Launched condition, as a cloud's error codes are.
		return cloudprovider.NewCreateError(cause, kind, fmt.Sprintf("launch failed: %s", message))
	}
}
