package rollout

import (
	"fmt"
	"slices"
	"time"
	_ "time/tzdata" // the operator's image has no other

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// Open says whether now is in one of the windows, and if not, when the next one begins. Without windows it always is.
// A window across a change to or from daylight saving time begins at its local time, and has its duration.
func Open(windows []v1alpha1.Window, now time.Time) (open bool, next time.Time, err error) {
	if len(windows) == 0 {
		return true, next, nil
	}
	for i, w := range windows {
		zone, err := time.LoadLocation(w.TimeZone)
		if err != nil {
			return false, next, fmt.Errorf("windows[%d].timeZone: %w", i, err)
		}
		start, err := time.Parse("15:04", w.Start)
		if err != nil {
			return false, next, fmt.Errorf("windows[%d].start: %q: want a time such as 22:30", i, w.Start)
		}
		if w.Duration.Duration <= 0 {
			return false, next, fmt.Errorf("windows[%d].duration: %s: want more than 0", i, w.Duration.Duration)
		}
		local := now.In(zone)
		back := int(w.Duration.Duration/(24*time.Hour)) + 1 // days before today that may have begun one that is open
		for day := -back; day <= 7; day++ {
			begin := time.Date(local.Year(), local.Month(), local.Day()+day, start.Hour(), start.Minute(), 0, 0, zone)
			if len(w.Days) > 0 && !slices.Contains(w.Days, begin.Weekday().String()[:3]) {
				continue
			}
			switch {
			case begin.After(now) && (next.IsZero() || begin.Before(next)):
				next = begin
			case !begin.After(now) && now.Before(begin.Add(w.Duration.Duration)):
				open = true
			}
		}
	}
	if open {
		next = time.Time{}
	}
	return open, next, nil
}
