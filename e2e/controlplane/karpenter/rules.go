package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/karpenter/pkg/cloudprovider"
)

// ruleFile is read anew at every launch, so a test changes it under a running Karpenter. Beside it, `<path>.used`
// keeps how often each rule refused a claim (a JSON object by rule id): it lets `remaining` survive a restart, and
// tells a test that its rule was hit. No file means no rules; an unreadable one refuses every launch, loudly.
type ruleFile struct {
	path string
	lock sync.Mutex
}

type rules struct {
	// LaunchDelay, such as "2s", is waited in every launch.
	LaunchDelay string `json:"launchDelay"`
	Refuse      []rule `json:"refuse"`
}

// rule refuses the offerings that match all of its non-empty fields.
type rule struct {
	ID           string `json:"id"`
	ClaimPrefix  string `json:"claimPrefix"`
	InstanceType string `json:"instanceType"`
	Zone         string `json:"zone"`
	CapacityType string `json:"capacityType"`
	// Error is InsufficientCapacity, NodeClassNotReady, or the reason of a failed launch that Karpenter retries.
	Error   string `json:"error"`
	Message string `json:"message"`
	// Remaining is how many claims are still refused; absent means all.
	Remaining *int `json:"remaining"`
}

func (r rule) matches(claim string, c candidate) bool {
	equalOrAny := func(wanted, is string) bool { return wanted == "" || wanted == is }
	return strings.HasPrefix(claim, r.ClaimPrefix) &&
		equalOrAny(r.InstanceType, c.instanceType) && equalOrAny(r.Zone, c.zone) && equalOrAny(r.CapacityType, c.capacityType)
}

// choose returns the cheapest candidate that no rule refuses and the delay to wait, or the error of the rule that
// refused the cheapest one, which is then counted as used.
func (f *ruleFile) choose(claim string, candidates []candidate) (candidate, time.Duration, error) {
	if len(candidates) == 0 {
		return candidate{}, 0, cloudprovider.NewInsufficientCapacityError(fmt.Errorf("no offering matches the claim's requirements"))
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	var wanted rules
	if err := readJSON(f.path, &wanted); err != nil {
		return candidate{}, 0, err
	}
	used := map[string]int{}
	if err := readJSON(f.usedPath(), &used); err != nil {
		return candidate{}, 0, err
	}
	refusedBy := func(c candidate) *rule {
		for i, r := range wanted.Refuse {
			if r.matches(claim, c) && (r.Remaining == nil || used[r.ID] < *r.Remaining) {
				return &wanted.Refuse[i]
			}
		}
		return nil
	}
	for _, c := range candidates {
		if refusedBy(c) == nil {
			delay, err := parseDelay(wanted.LaunchDelay)
			return c, delay, err
		}
	}
	by := refusedBy(candidates[0])
	used[by.ID]++
	if err := writeJSON(f.usedPath(), used); err != nil {
		return candidate{}, 0, err
	}
	return candidate{}, 0, launchError(by.Error, by.Message)
}

func (f *ruleFile) usedPath() string {
	if f.path == "" {
		return ""
	}
	return f.path + ".used"
}

func parseDelay(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(text)
}

// readJSON leaves the value as it is when there is no such file.
func readJSON(path string, into any) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces the file in one step: readers in other processes never see half of it.
func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
