"""Why a detector has learnt nothing: the likeliest cause first, with the setting that helps."""
