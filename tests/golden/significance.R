# Intervals, probabilities and p-values of some small experiments, computed in R from the definitions and without a line of the product.
#
#     Rscript tests/golden/significance.R > tests/golden/significance.json
#
# Base R alone. The symmetric bootstrap-t (Hall, J. R. Statist. Soc. B 50, 1988) of a ratio of cluster totals (Cochran, Sampling
# Techniques, chapter 6) is not simulated where there are seven clusters or fewer: every resample is weighed by its multinomial
# probability. Beyond that a million resamples are drawn.

set.seed(1)
confidence <- 0.95
tail <- (1 - confidence) / 2
fewest <- 5 # clusters that are studentised
widest <- 2 # times Student's quantile

# Every way to draw n of n clusters with replacement, as counts [ways, n].
compositions <- function(total, parts) {
  if (parts == 1) return(matrix(total, 1, 1))
  do.call(rbind, lapply(0:total, function(first) cbind(first, compositions(total - first, parts - 1))))
}

resamples <- function(n) {
  if (n > 7) return(list(counts = t(rmultinom(1e6, n, rep(1, n))), weight = rep(1e-6, 1e6)))
  counts <- unname(compositions(n, n))
  list(counts = counts, weight = apply(counts, 1, dmultinom, prob = rep(1, n)))
}

# Standard error of sum(errors) / sum(words) over clusters drawn `counts` times each.
standard_error <- function(errors, words, counts = rep(1, length(words))) {
  ratio <- sum(counts * errors) / sum(counts * words)
  n <- length(words)
  sqrt(n / (n - 1) * sum(counts * (errors - ratio * words)^2)) / sum(counts * words)
}

smallest_reaching <- function(values, weight, share) {
  order <- order(values)
  values[order][which(cumsum(weight[order]) / sum(weight) >= share)[1]]
}

ratio_interval <- function(errors, words, drawn) {
  n <- length(words)
  ratio <- sum(errors) / sum(words)
  error <- standard_error(errors, words)
  quantile <- qt(1 - tail, n - 1)
  exact <- TRUE
  if (n >= fewest && error > 0) {
    spoken <- as.vector(drawn$counts %*% words) > 0
    counts <- drawn$counts[spoken, ]
    total <- as.vector(counts %*% words)
    ratios <- as.vector(counts %*% errors) / total
    # sum of counts * (errors - ratios * words)^2, for all resamples at once
    both <- as.vector(counts %*% (errors * words))
    squares <- as.vector(counts %*% errors^2) - 2 * ratios * both + ratios^2 * as.vector(counts %*% words^2)
    errors_of_resamples <- sqrt(n / (n - 1) * pmax(squares, 0)) / total
    distance <- abs(ratios - ratio)
    distance[distance < 1e-12] <- 0
    studentised <- ifelse(distance == 0, 0, distance / pmax(errors_of_resamples, 1e-9 * error))
    found <- smallest_reaching(studentised, drawn$weight[spoken], confidence)
    quantile <- min(found, widest * qt(1 - tail, n - 1))
    exact <- quantile < found
  }
  half <- max(quantile * error, -log(tail) / sum(words)) # errors that were not seen: the rule of three, for 97.5 %
  list(low = ratio - half, high = ratio + half, exact = exact)
}

improved <- function(errors, words, drawn) {
  spoken <- as.vector(drawn$counts %*% words) > 0
  change <- as.vector(drawn$counts[spoken, ] %*% errors)
  weight <- drawn$weight[spoken]
  sum(weight * ((change < 0) + (change == 0) / 2)) / sum(weight)
}

matched_pairs <- function(before, after) {
  difference <- after - before
  z <- mean(difference) / (sd(difference) / sqrt(length(difference)))
  2 * pnorm(-abs(z))
}

number <- function(value) sprintf("%.10g", value)

as_json <- function(name, speakers, words, before, after) {
  cluster <- if (is.null(speakers)) seq_along(words) else speakers
  totals <- rowsum(cbind(words, before, after), cluster)
  w <- totals[, 1]; b <- totals[, 2]; a <- totals[, 3]
  drawn <- resamples(length(w))
  level <- ratio_interval(b, w, drawn)
  level$low <- max(level$low, 0)
  change <- ratio_interval(a - b, w, drawn)
  interval <- function(found) {
    sprintf('{"low": %s, "high": %s, "exact": %s}', number(found$low), number(found$high), tolower(found$exact))
  }
  who <- if (is.null(speakers)) rep("null", length(words)) else sprintf('"%s"', speakers)
  rows <- paste(sprintf("[%s, %d, %d, %d]", who, words, before, after), collapse = ", ")
  sprintf(
    paste0(
      '    {\n      "name": "%s",\n      "rows": [%s],\n      "level": %s,\n      "change": %s,\n',
      '      "improved": %s,\n      "p_value": %s\n    }'
    ),
    name, rows, interval(level), interval(change), number(improved(a - b, w, drawn)), number(matched_pairs(before, after))
  )
}

cases <- c(
  as_json("two speakers", c("x", "x", "y", "y", "y"), c(12, 9, 14, 8, 11), c(3, 1, 5, 2, 2), c(2, 1, 3, 2, 1)),
  as_json("three utterances", NULL, c(40, 65, 52), c(9, 12, 14), c(7, 11, 8)),
  as_json("four speakers", c("d", "a", "b", "c", "a", "b", "d"),
          c(30, 22, 18, 41, 25, 19, 28), c(4, 3, 5, 6, 1, 4, 2), c(2, 3, 3, 6, 1, 2, 3)),
  as_json("five speakers much alike", c("a", "b", "c", "d", "e"), c(100, 110, 90, 105, 95), c(21, 24, 17, 20, 22), c(14, 18, 8, 15, 12)),
  as_json("five speakers of whom one is another", c("a", "b", "c", "d", "e"),
          c(100, 120, 90, 110, 80), c(10, 12, 9, 11, 60), c(9, 11, 8, 10, 20)),
  as_json("six utterances", NULL, c(50, 40, 60, 45, 55, 52), c(10, 5, 14, 7, 12, 8), c(8, 5, 9, 7, 7, 8)),
  as_json("seven utterances", NULL,
          c(210, 180, 160, 240, 200, 190, 220), c(40, 22, 35, 51, 37, 30, 52), c(31, 20, 24, 50, 21, 27, 39)),
  as_json("twelve utterances", NULL,
          c(12, 9, 15, 8, 11, 14, 10, 7, 13, 16, 9, 12),
          c(2, 1, 4, 0, 3, 2, 1, 2, 5, 3, 0, 2), c(1, 1, 2, 0, 1, 2, 2, 0, 3, 3, 0, 1)),
  as_json("forty utterances", NULL, 5 + (7 * (1:40)) %% 13, (5 * (1:40)) %% 7 %% 4, (3 * (1:40)) %% 11 %% 3)
)
freedom <- c(1:12, 15, 20, 29, 30, 50, 99, 100, 499, 1000, 9999)
student <- paste(sprintf("[%d, %s]", freedom, number(qt(1 - tail, freedom))), collapse = ", ")

# Fewest clusters, more than there are, whose half width is at most the target: it goes with Student's quantile over the root of their
# number.
needed <- function(clusters, half, target) {
  width <- function(n) half * (qt(1 - tail, n - 1) / sqrt(n)) / (qt(1 - tail, clusters - 1) / sqrt(clusters))
  n <- (clusters + 1):(500 * clusters)
  n[which(width(n) <= target * (1 + 1e-12))[1]]
}
asked <- rbind(
  c(100, 5, 3), c(100, 5, 1.5), c(100, 2, 0.6), c(100, 1, 0.5), c(100, 0.8, 0.4), c(100, 0.3, 0.2), c(100, 0.9, 0.8),
  c(50, 1.1, 1), c(50, 2, 0.5), c(10, 1, 0.5), c(2, 10, 1), c(5, 3, 1), c(400, 1, 0.5), c(50, 1, 2)
)
found <- apply(asked, 1, function(a) needed(a[1], a[2], a[3]))
clusters_needed <- paste(sprintf("[%g, %g, %g, %d]", asked[, 1], asked[, 2], asked[, 3], found), collapse = ", ")
cat(sprintf(
  '{\n  "computed_by": "%s",\n  "student": [%s],\n  "clusters_needed": [%s],\n  "cases": [\n%s\n  ]\n}\n',
  R.version.string, student, clusters_needed, paste(cases, collapse = ",\n")
))
