/*
 * The gate: is a plan's text still the model's? docs/gate.md has the measurements behind the two floors.
 */
#include <math.h>
#include <stdio.h>

#include "base/error.h"

#define SAME_TOP_P_MIN 80.0
#define AGREEMENT_MIN 2.5

void kvant_gate_judge(const struct kvant_gate *gate, const struct kvant_eval_result *measured,
                      const struct kvant_trajectory_result *trajectory, struct kvant_verdict *out)
{
    double min_top = gate && gate->min_same_top_p > 0 ? gate->min_same_top_p : SAME_TOP_P_MIN;
    double min_agreement = gate && gate->min_agreement > 0 ? gate->min_agreement : AGREEMENT_MIN;
    *out = (struct kvant_verdict){ .collapsed = true,
                                   .same_top_p = measured->same_top_p,
                                   .agreement = trajectory ? trajectory->agreement : NAN };
    char *why = out->reason;
    if (!isfinite(measured->kld_mean))
        snprintf(why, sizeof out->reason, "its logits are not finite");
    else if (trajectory && trajectory->n_failed > 0)
        snprintf(why, sizeof out->reason, "its numbers are not finite after %lld of %lld prompts",
                 (long long)trajectory->n_failed, (long long)trajectory->n_prompts);
    else if (!(measured->same_top_p >= min_top))
        snprintf(why, sizeof out->reason,
                 "the likeliest token is that of 16 bits at %.1f %% of positions only, %g %% are the least",
                 measured->same_top_p, min_top);
    else if (trajectory && !(trajectory->agreement >= min_agreement))
        snprintf(why, sizeof out->reason,
                 "its text is that of 16 bits for %.1f %% of the trajectory only, %g %% are the least",
                 trajectory->agreement, min_agreement);
    else out->collapsed = false;
}
